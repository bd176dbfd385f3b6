"""The order and the augmentation of an epoch's images, which only seed and epoch decide."""

from collections.abc import Iterator
from dataclasses import KW_ONLY

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch.utils.data import Sampler


@dataclass(eq=False)
class EpochSampler(Sampler[tuple[int, int]]):
    """Yields pairs `(index, draw)` of one epoch, for `Images`: every image once, in an order of `(seed, epoch)`.

    The draw of an image depends on `(seed, epoch)` too, not on workers, ranks or what ran before: an epoch that is run
    again is the same epoch. Ranks share the images out evenly; the first ones are repeated where they do not divide.
    """

    length: int
    _: KW_ONLY
    seed: int
    epoch: int = 0
    rank: int = 0
    world_size: int = 1
    done: tuple[int, int] = (0, 0)  # an epoch, and how many images of it are left out: a killed run had had them

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        mixed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        order = torch.randperm(self.length, generator=generator)
        draws = torch.randint(2**32, (self.length,), generator=generator)
        mine = torch.arange(self.rank, len(self) * self.world_size, self.world_size) % self.length
        epoch, images = self.done
        left = mine[images:] if epoch == self.epoch else mine
        return iter(list(zip(order[left].tolist(), draws[left].tolist(), strict=True)))
