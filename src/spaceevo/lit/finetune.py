"""Supervised training of one classifier: the teacher, and found subnets on other data."""

from collections.abc import Iterator, Sequence
from random import Random

from torch import Tensor, nn
from torch.nn import functional

from spaceevo.lit.module import MultiPassModule, Recipe


class FinetuneModule(MultiPassModule):
    """Trains a classifier by smoothed cross-entropy; its `frozen` parts keep their weights and statistics."""

    def __init__(
        self, classifier: nn.Module, recipe: Recipe, seed: int, label_smoothing: float, frozen: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__(recipe, seed)
        self.classifier = classifier
        self.label_smoothing = label_smoothing
        self._frozen = [module.requires_grad_(False) for module in frozen]

    @property
    def network(self) -> nn.Module:
        """The classifier."""
        return self.classifier

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        """Yield one pass on the labels."""
        for module in self._frozen:
            module.eval()  # Lightning puts everything in training mode
        yield "loss", functional.cross_entropy(self.classifier(images), labels, label_smoothing=self.label_smoothing)
