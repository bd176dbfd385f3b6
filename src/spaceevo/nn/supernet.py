"""Networks: the weight-sharing supernet of a space, and the subnets extracted from it."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaceevo.nn.activation import tensor_quant
from spaceevo.nn.block import Block, LayerWriter
from spaceevo.nn.finite import check_weights
from spaceevo.nn.stage import Stage
from spaceevo.quant.program import TensorQuant
from spaceevo.quant.quantizer import ActivationQuantizer, Quantizer, Scheme, quant_scheme
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet
from spaceevo.space.superspace import SpaceMember


def resize(images: Tensor, resolution: int) -> Tensor:
    """Resize `(N, C, H, W)` bicubically to a square of `resolution` pixels."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    return functional.interpolate(images, (resolution, resolution), mode="bicubic", align_corners=False)


class Network(nn.Module):
    """Runs stages in a row, from images to logits, at one input resolution."""

    def __init__(self, stages: dict[str, Stage], resolution: int, image_quantizer: ActivationQuantizer | None) -> None:
        super().__init__()
        self.resolution = resolution
        self.dropout = 0.0
        self.origin = ""  # the file of its weights, for messages
        self.image_quantizer = image_quantizer
        self.stages = nn.ModuleDict(stages)
        self._connect()

    @property
    def active_stages(self) -> dict[str, Stage]:
        """The stages by name, in order."""
        return {name: stage for name, stage in self.stages.items() if isinstance(stage, Stage)}

    def _connect(self) -> None:
        """Tell every active layer which tensor it reads."""
        source = self.image_quantizer
        for stage in self.active_stages.values():
            source = stage.read_from(source)

    @classmethod
    def fixed(cls, member: SpaceMember, spec: SubnetSpec, scheme: Scheme) -> Network:
        """Make one subnet of a space with random weights of its own; quantisers off."""
        member.validate(spec)
        stages = {
            name: Stage([Block([block], scheme) for block in blocks])
            for name, blocks in member.block_specs(spec).items()
        }
        return Network(stages, spec.resolution, scheme.tensor_quantizer())

    def forward(self, images: Tensor) -> Tensor:
        """Turn images `(N, 3, H, W)`, resized to the network's resolution, into logits `(N, classes)`.

        `dropout`, in training, acts on the classifier's input.
        """
        x = resize(images, self.resolution)
        if self.image_quantizer is not None:
            x = self.image_quantizer(x)
        *body, classifier = self.stages.values()
        for stage in body:
            x = stage(x)
        y: Tensor = classifier(functional.dropout(x, self.dropout, self.training))
        return y

    def input_quant(self) -> TensorQuant:
        """Give scale and zero point of the resized images; a `CheckpointError` names a tensor that is no number."""
        check_weights(self.state_dict(), "the network cannot be written")
        return tensor_quant(self.image_quantizer)

    def lower(self, writer: LayerWriter, images: str) -> str:
        """Write the network's layers in order; return the logits' tensor; raises as `input_quant`."""
        check_weights(self.state_dict(), "the network cannot be written")
        x = images
        for name, stage in self.active_stages.items():
            x = stage.lower(writer, name, x)
        return x


class Supernet(Network):
    """Holds all subnets of a space in one set of weights, of which one subnet at a time is active.

    `quant` is the scheme of its quantisers, `deploy`, `reduced_range` or `published`; they start off (`set_quant`).
    """

    def __init__(self, member: SpaceMember, quant: str = "deploy") -> None:
        scheme = quant_scheme(quant)
        stages = {name: Stage.elastic(space, scheme) for name, space in member.stages.items()}
        super().__init__(stages, member.largest.resolution, scheme.tensor_quantizer())
        self.member = member
        self.scheme = scheme
        self.activate_max()

    def activate(self, spec: SubnetSpec) -> None:
        """Make a subnet the active one (EncodingError: it is not of this space)."""
        self.member.validate(spec)
        stages = self.active_stages
        for name, blocks in self.member.block_specs(spec).items():
            stages[name].activate(blocks)
        self._connect()
        self.spec = spec
        self.resolution = spec.resolution

    def activate_max(self) -> None:
        """Make the largest subnet the active one."""
        self.activate(self.member.largest)

    def activate_min(self) -> None:
        """Make the smallest subnet the active one."""
        self.activate(self.member.smallest)

    def sample(self, generator: torch.Generator | Random) -> SubnetSpec:
        """Sample a subnet, every choice uniform; the active one stays."""
        if isinstance(generator, torch.Generator):
            generator = Random(int(torch.randint(2**62, (), generator=generator)))
        return sample_subnet(self.member, generator)

    def extract(self, spec: SubnetSpec) -> Network:
        """Copy the weights of one subnet into a network of its own, in the same mode (train or eval, fp32 or INT8)."""
        previous = self.spec
        self.activate(spec)
        stages = {name: stage.extract() for name, stage in self.active_stages.items()}
        network = Network(stages, spec.resolution, self.scheme.tensor_quantizer())
        source = dict(self.named_modules())
        for name, module in network.named_modules():
            module.training = source[name].training
            if isinstance(module, Quantizer):
                module.turn(getattr(source[name], "is_on", False))
        if network.image_quantizer is not None and self.image_quantizer is not None:
            network.image_quantizer.load_state_dict(self.image_quantizer.state_dict())
        self.activate(previous)
        network.origin = self.origin
        return network.to(next(self.parameters()).device)
