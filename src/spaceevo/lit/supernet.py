"""Weight-sharing training of a whole space: the sandwich rule."""

from collections.abc import Iterator
from random import Random
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from spaceevo.lit.module import MultiPassModule, Recipe
from spaceevo.nn.losses import adaptive_alpha_divergence
from spaceevo.nn.supernet import Supernet
from spaceevo.space.encoding import SubnetSpec

SubnetLoss = Literal["alpha_divergence", "kl_divergence", "labels"]


class SupernetModule(MultiPassModule):
    """Trains by four passes a step: the largest subnet on labels, then two random ones and the smallest.

    These learn from the largest's logits, by the adaptive alpha-divergence (arXiv 2102.07954) or the Kullback-Leibler
    divergence (arXiv 2003.11142), or from labels as the largest does: in the first epochs the logits tell little.
    """

    def __init__(
        self,
        supernet: Supernet,
        recipe: Recipe,
        seed: int,
        label_smoothing: float,
        dropout: float,
        subnet_loss: SubnetLoss = "alpha_divergence",
    ) -> None:
        super().__init__(recipe, seed)
        self.supernet = supernet
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.subnet_loss = subnet_loss

    @property
    def network(self) -> nn.Module:
        """The supernet."""
        return self.supernet

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        """Yield the passes of the largest, two random and the smallest subnet."""
        member = self.supernet.member
        self.supernet.dropout = self.dropout
        logits = self._logits(images, member.largest)
        self.supernet.dropout = 0.0
        yield "max", self._label_loss(logits, labels)
        teacher_logits = logits.detach()
        for name in ("random1", "random2"):
            yield name, self._loss(self._logits(images, self.supernet.sample(rng)), teacher_logits, labels)
        yield "min", self._loss(self._logits(images, member.smallest), teacher_logits, labels)

    def _loss(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a subnet that is not the largest."""
        if self.subnet_loss == "labels":
            return self._label_loss(logits, labels)
        if self.subnet_loss == "kl_divergence":
            student, teacher = (functional.log_softmax(each, dim=1) for each in (logits, teacher_logits))
            return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return adaptive_alpha_divergence(logits, teacher_logits)

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def _logits(self, images: Tensor, spec: SubnetSpec) -> Tensor:
        self.supernet.activate(spec)
        y: Tensor = self.supernet(images)
        return y
