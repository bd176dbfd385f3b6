"""Teachers: a classifier of a library, with the layers whose outputs its stages teach."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from spaceevo.artifacts import Layout
from spaceevo.artifacts.values import Name
from spaceevo.errors import ConfigError, choices
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.loading import Checkpoint, read_checkpoint
from spaceevo.quant.prepare import prepare
from spaceevo.space.spec import halved
from spaceevo.space.superspace import Superspace
from spaceevo.torchvision_shim import ensure_torchvision

ensure_torchvision()
log = logging.getLogger(__name__)
PATIENCE_S = 3.0
"""What a server of weights may take to answer before it counts as out of reach."""


@dataclass(frozen=True)
class TeacherConfig:
    """Describes a teacher as `conf/teacher` does."""

    name: Name  # folder of its checkpoints
    # makes the classifier; called with `num_classes`, and with `pretrained` where `weights` is `pretrained`
    model: Callable[..., nn.Module]
    # stage name → module whose output is that stage's; also the stage before the first one that is taught
    taps: Mapping[str, str]
    # `trained` needs a checkpoint of stage `teacher`; `pretrained` falls back on the library's weights, `random` on
    # random ones, which teach nothing, to try what does not depend on them
    weights: Literal["trained", "pretrained", "random"] = "trained"


class _Reached(Exception):
    """The deepest wanted tap has its output; the rest of the network need not run."""


class Teacher(nn.Module):
    """Wraps a classifier so that intermediate outputs can be read by stage name."""

    def __init__(self, model: nn.Module, taps: Mapping[str, str], channels: int = 3) -> None:
        super().__init__()
        modules = dict(model.named_modules())
        for stage, name in taps.items():
            if name not in modules:
                near = choices((n for n in modules if n.count(".") <= name.count(".") and n), limit=30)
                raise ConfigError(f"teacher tap {stage}: the model has no module '{name}'; allowed: {near}")
        self.model = model
        self.taps = dict(taps)
        self.image_channels = channels
        self.meta = CheckpointMeta()  # what the file of its weights says of it

    def forward(self, images: Tensor) -> Tensor:
        """Turn images `(N, C, H, W)` into logits `(N, classes)`."""
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
        probe = torch.zeros(1, self.image_channels, 64, 64)
        return tuple(shape[1] for shape in self.shapes(probe, *stages).values())


def make_teacher(config: TeacherConfig, num_classes: int, *, pretrained: bool = False, channels: int = 3) -> Teacher:
    """Build a teacher with random weights, or the library's if `pretrained`.

    The library hears of the images' `channels`, as `in_chans`, where they are not 3.

    Raises:
        ConfigError: the library's weights cannot be fetched.
    """
    model = partial(config.model, num_classes=num_classes, **({} if channels == 3 else {"in_chans": channels}))
    return Teacher(_fetched(model, config.name) if pretrained else model(), config.taps, channels)


def _fetched(model: Callable[..., nn.Module], name: str) -> nn.Module:
    """Make a classifier with the library's weights; one try, without the download client's lines about it."""
    downloads = logging.getLogger("huggingface_hub")
    level = downloads.level
    downloads.setLevel(logging.CRITICAL)  # it tells every attempt, twice
    with _quick_to_fail() as fault:
        try:
            return model(pretrained=True)
        except Exception as error:  # the library raises whatever its download client does
            is_hub = type(error).__module__.startswith("huggingface_hub")
            reason = fault if fault and is_hub else _first_line(error)
        finally:
            downloads.setLevel(level)
    raise ConfigError(
        f"teacher.weights = pretrained of {name}: no checkpoint is there, and the library's weights "
        f"cannot be fetched ({reason}); go online, name a released file by +stage=convert checkpoint=…, or set "
        "teacher.weights=random to try what does not depend on them"
    ) from None


@contextmanager
def _quick_to_fail() -> Iterator[str]:
    """Let the Hugging Face client look into its cache alone where its server is out of reach; yield why it is.

    By itself it tries every file for 20 s.
    """
    from huggingface_hub import constants, get_session

    before, fault = constants.HF_HUB_OFFLINE, ""
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE_S)
    except Exception as error:  # of whatever client it has
        fault = f"{constants.ENDPOINT}: {_first_line(error)}"
    constants.HF_HUB_OFFLINE = before or bool(fault)
    try:
        yield fault
    finally:
        constants.HF_HUB_OFFLINE = before


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def load_teacher(
    config: TeacherConfig, layout: Layout, num_classes: int, int8: bool, command: str, channels: int = 3
) -> Teacher:
    """Build the teacher with its trained weights, in eval mode, to read its taps; `command` trains it.

    Its quantisers are on if `int8`. It keeps the classes it was trained on, which need not be the images'.
    """
    path = layout.teacher(config.name, int8)
    optional = config.weights != "trained" and not path.exists()
    if optional and int8 and not layout.teacher(config.name, int8=False).exists():
        log.warning("teacher %s: no INT8 checkpoint at %s; its fp32 weights teach", config.name, path)
    if optional:
        pretrained = config.weights == "pretrained"
        return make_teacher(config, num_classes, pretrained=pretrained, channels=channels).eval()
    weights = read_checkpoint(path, f"teacher {config.name}", command)
    teacher = make_teacher(config, num_classes, channels=channels)
    known = _classes_of(weights, teacher.model, num_classes)
    if known != num_classes:
        teacher = make_teacher(config, known, channels=channels)
        told = "teacher %s knows %d classes, the images have %d: only its features are read"
        log.warning(told, config.name, known, num_classes)
    if int8:
        prepare(teacher.model)
    weights.load_into(teacher, int8=int8)
    teacher.meta = weights.meta
    return teacher.eval()


def _classes_of(weights: Checkpoint, model: nn.Module, num_classes: int) -> int:
    """Number of classes of weights; where they do not say, by the tensors that a model has of `num_classes`."""
    if weights.num_classes:
        return weights.num_classes
    read = {name.replace(".parametrizations.weight.original", ".weight"): v for name, v in weights.state.items()}
    own = {f"model.{name}": value for name, value in model.state_dict().items()}
    pairs = [(value, read[name]) for name, value in own.items() if name in read and value.shape != read[name].shape]
    counts = {len(there) for here, there in pairs if len(here) == num_classes and here.shape[1:] == there.shape[1:]}
    return counts.pop() if len(counts) == 1 else num_classes


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
