"""The student of block-wise distillation: one candidate block type in one stage, between two projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from spaceevo.nn.layers import ConvLayer
from spaceevo.nn.stage import Stage
from spaceevo.quant.quantizer import Scheme
from spaceevo.space.spec import BlockChoice, Layer
from spaceevo.space.superspace import StageSpace


class BlockStudent(nn.Module):
    """Imitates a teacher's stage: 1×1 convolution, elastic stage, 1×1 convolution to the teacher's channels.

    `space` is the stage with all its widths, `teacher_channels` those of the teacher's stage input and output. The
    projections are quantised like any layer.
    """

    def __init__(self, space: StageSpace, teacher_channels: tuple[int, int], scheme: Scheme) -> None:
        super().__init__()
        self.space = space
        self.feature_quantizer = scheme.tensor_quantizer()
        self.in_proj = ConvLayer(Layer("conv", teacher_channels[0], max(space.cins), norm=False), scheme)
        self.stage = Stage.elastic(space, scheme)
        self.out_proj = ConvLayer(Layer("conv", max(space.widths), teacher_channels[1], norm=False), scheme)

    def activate(self, blocks: Sequence[BlockChoice], cin: int) -> None:
        """Make a sub-stage with `cin` input channels the active one."""
        self.space.validate(blocks)
        self.stage.activate(self.space.specs(blocks, cin))
        self.in_proj.active = replace(self.in_proj.layer, cout=cin)
        self.out_proj.active = replace(self.out_proj.layer, cin=blocks[-1].width)

    def forward(self, features: Tensor) -> Tensor:
        """Estimate the teacher's stage output `(N, Cout, H/stride, W/stride)` from its input `(N, Cin, H, W)`."""
        if self.feature_quantizer is not None:
            features = self.feature_quantizer(features)
        y: Tensor = self.out_proj(self.stage(self.in_proj(features)))
        return y
