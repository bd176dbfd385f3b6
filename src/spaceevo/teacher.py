"""Teachers: a classifier of a library, with the layers whose outputs its stages teach."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from spaceevo.artifacts import Layout
from spaceevo.artifacts.values import Name
from spaceevo.errors import ConfigError, choices
from spaceevo.nn.loading import read_checkpoint
from spaceevo.quant.prepare import prepare
from spaceevo.space.spec import halved
from spaceevo.space.superspace import Superspace
from spaceevo.torchvision_shim import ensure_torchvision

ensure_torchvision()
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherConfig:
    """Describes a teacher as `conf/teacher` does."""

    name: Name  # folder of its checkpoints
    # makes the classifier; called with `num_classes`, and with `pretrained` where `weights` is `pretrained`
    model: Callable[..., nn.Module]
    # stage name → module whose output is that stage's; also the stage before the first one that is taught
    taps: Mapping[str, str]
    # `trained` needs a checkpoint of stage `teacher`; `pretrained` falls back on the library's weights
    weights: Literal["trained", "pretrained"] = "trained"


class _Reached(Exception):
    """The deepest wanted tap has its output; the rest of the network need not run."""


class Teacher(nn.Module):
    """Wraps a classifier so that intermediate outputs can be read by stage name."""

    def __init__(self, model: nn.Module, taps: Mapping[str, str]) -> None:
        super().__init__()
        modules = dict(model.named_modules())
        for stage, name in taps.items():
            if name not in modules:
                near = choices((n for n in modules if n.count(".") <= name.count(".") and n), limit=30)
                raise ConfigError(f"teacher tap {stage}: the model has no module '{name}'; allowed: {near}")
        self.model = model
        self.taps = dict(taps)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images `(N, 3, H, W)` into logits `(N, classes)`."""
        y: Tensor = self.model(images)
        return y

    def tap(self, stage: str) -> str:
        """Look up the module of a stage's output."""
        if stage not in self.taps:
            raise ConfigError(f"the teacher has no tap '{stage}'; taps: {choices(self.taps)} (teacher.taps)")
        return self.taps[stage]

    def features(self, images: Tensor, *stages: str) -> tuple[Tensor, ...]:
        """Compute these stages' outputs `(N, C, H, W)`, without gradients, running no deeper than the last needs."""
        found: dict[str, Tensor] = {}
        wanted = [self.tap(stage) for stage in stages]

        def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                found[name] = output
                if len(found) == len(set(wanted)):
                    raise _Reached

            return hook

        handles = [self.model.get_submodule(name).register_forward_hook(keep(name)) for name in set(wanted)]
        try:
            with torch.no_grad():
                self.model(images)
        except _Reached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for stage, name in zip(stages, wanted, strict=True):
            if name not in found:
                raise ConfigError(f"teacher.taps.{stage} = {name} is never run by the model; set it to another module")
        return tuple(found[name] for name in wanted)

    def shapes(self, images: Tensor, *stages: str) -> dict[str, torch.Size]:
        """Compute the shapes of these stages' outputs for images `(N, C, H, W)`, in eval mode.

        Raises:
            ConfigError: one is no map `(N, C, H, W)`.
        """
        was_training = self.training
        self.eval()
        outputs = self.features(images.to(next(self.parameters()).device), *stages)
        self.train(was_training)
        named = dict(zip(stages, outputs, strict=True))
        for stage, output in named.items():
            shape = tuple(getattr(output, "shape", ()))
            if len(shape) != 4:
                what = f"a tensor of shape {shape}" if shape else f"a {type(output).__name__}"
                raise ConfigError(
                    f"teacher.taps.{stage} = {self.tap(stage)} gives {what}; set it to a module of maps (N, C, H, W)"
                )
        return {stage: output.shape for stage, output in named.items()}

    def channels(self, *stages: str) -> tuple[int, ...]:
        """Count the channels of these stages' outputs."""
        return tuple(shape[1] for shape in self.shapes(torch.zeros(1, 3, 64, 64), *stages).values())


def make_teacher(config: TeacherConfig, num_classes: int, *, pretrained: bool = False) -> Teacher:
    """Build a teacher; `pretrained` asks the library for its weights and, offline, says that it has none."""
    if pretrained:
        try:
            return Teacher(config.model(num_classes=num_classes, pretrained=True), config.taps)
        except Exception as error:  # the library raises whatever its download client does
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            fault = "no checkpoint, and the library's weights cannot be fetched (%s); RANDOM weights teach nothing"
            log.warning(f"teacher %s: {fault}", config.name, reason)
    return Teacher(config.model(num_classes=num_classes), config.taps)


def load_teacher(config: TeacherConfig, layout: Layout, num_classes: int, int8: bool, command: str) -> Teacher:
    """Build the teacher with its trained weights, in eval mode; INT8 quantisers on if `int8`; `command` trains it."""
    path = layout.teacher(config.name, int8)
    optional = config.weights == "pretrained" and not path.exists()
    if optional and int8 and not layout.teacher(config.name, int8=False).exists():
        log.warning("teacher %s: no INT8 checkpoint at %s; its fp32 weights teach", config.name, path)
    if optional:
        return make_teacher(config, num_classes, pretrained=True).eval()
    teacher = make_teacher(config, num_classes)
    if int8:
        prepare(teacher.model)
    read_checkpoint(path, f"teacher {config.name}", command).load_into(teacher, int8=int8)
    return teacher.eval()


def teacher_taps(superspace: Superspace, stage: str) -> tuple[str, str]:
    """Return the stages whose features of the teacher a student reads and reproduces: the one before, and its own."""
    names = [template.name for template in superspace.stages]
    return names[names.index(stage) - 1], stage


def tap_channels(teacher: Teacher, superspace: Superspace, stages: Iterable[str]) -> dict[str, int]:
    """Count the channels of the features that students of these stages read and reproduce, by stage of the teacher.

    Raises:
        ConfigError: a tap gives no maps, or maps of another size than students make of those before, or of one pixel.
    """
    taps = {stage: teacher_taps(superspace, stage) for stage in sorted(stages)}
    every = sorted({tap for pair in taps.values() for tap in pair})
    for resolution in superspace.block_resolutions:
        shapes = teacher.shapes(torch.zeros(1, superspace.input_channels, resolution, resolution), *every)
        for stage, (source, target) in taps.items():
            (*_, given), (*_, found) = shapes[source], shapes[target]
            made = halved(given, superspace.stage_space(stage, 0).stride)
            if found == made > 1:
                continue
            maps = f"maps of {made}×{made}" if made > 1 else "larger maps, since the loss divides by their variance"
            raise ConfigError(
                f"teacher.taps.{target} = {teacher.tap(target)} gives maps of {found}×{found} at {resolution} pixels, "
                f"but students of {stage} make {made}×{made} of the {given}×{given} of teacher.taps.{source}; "
                f"set it to a module of {maps}"
            )
    return {stage: shape[1] for stage, shape in shapes.items()}
