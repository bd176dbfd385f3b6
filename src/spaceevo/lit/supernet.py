"""Weight-sharing training of a whole space: the sandwich rule."""

from collections.abc import Iterator
from random import Random

from torch import Tensor, nn
from torch.nn import functional

from spaceevo.lit.module import MultiPassModule, Recipe
from spaceevo.nn.losses import adaptive_alpha_divergence
from spaceevo.nn.supernet import Supernet
from spaceevo.space.encoding import SubnetSpec


class SupernetModule(MultiPassModule):
    """Trains by four passes a step: the largest subnet on labels, two random ones and the smallest on its logits."""

    def __init__(self, supernet: Supernet, recipe: Recipe, seed: int, label_smoothing: float, dropout: float) -> None:
        super().__init__(recipe, seed)
        self.supernet = supernet
        self.label_smoothing = label_smoothing
        self.dropout = dropout

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
        yield "max", functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        teacher_logits = logits.detach()
        for name in ("random1", "random2"):
            yield name, adaptive_alpha_divergence(self._logits(images, self.supernet.sample(rng)), teacher_logits)
        yield "min", adaptive_alpha_divergence(self._logits(images, member.smallest), teacher_logits)

    def _logits(self, images: Tensor, spec: SubnetSpec) -> Tensor:
        self.supernet.activate(spec)
        y: Tensor = self.supernet(images)
        return y
