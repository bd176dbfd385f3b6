"""A training step of several passes, and the recipe that drives it."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Annotated, Any, Literal, cast

import torch
from pydantic.dataclasses import dataclass
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from spaceevo.artifacts import Neutral, fingerprint
from spaceevo.artifacts.values import Amount, Count, InnerShare, Positive
from spaceevo.collectives.averaging import average_, average_gradients, least_
from spaceevo.errors import ConfigError
from spaceevo.lit.guard import DivergenceError, Guard, LossWatch
from spaceevo.nn.finite import check_weights, not_finite
from spaceevo.nn.memory import channels_last, images_last

__all__ = ["Callback", "Loss", "MultiPassModule", "OptimizerFactory", "Recipe", "Trainer", "decay_groups"]

OptimizerFactory = Callable[..., torch.optim.Optimizer]
Loss = tuple[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """Says how networks are trained."""

    epochs: Count  # passes over the training images
    optimizer: OptimizerFactory  # makes the optimiser from parameter groups
    warmup_epochs: Amount = 0.0  # linear warm-up, at most `epochs`
    schedule: Literal["cosine", "linear"] = "cosine"  # how the rate falls to 0 after the warm-up
    clip_value: Positive | None = 1.0  # bound of each gradient's absolute value
    clip_norm: Positive | None = None  # bound of the norm of all gradients together
    decay_all: bool = False  # whether weight decay acts on norms, biases and quantiser scalars too
    # images of a step, all processes together, that the optimiser's rate is meant for: the rate is multiplied by
    # `max(1, images of a step // lr_batch_size)`, as published; None takes it as it is
    lr_batch_size: Count | None = None
    schedule_every: Count = 1  # steps between two changes of the rate
    # decay of an exponential mean of the weights, which then is what is saved; None keeps none
    ema_decay: InnerShare | None = None
    # minutes between two saves of the state within an epoch; None saves at the ends of epochs alone
    save_minutes: Annotated[Positive | None, Neutral("says where a killed run goes on, and ends alike")] = 10.0
    # epochs between two looks at how good the networks are; None looks at the end alone
    validate_every: Annotated[Count | None, Neutral("looks on, and changes nothing")] = None
    guard: Annotated[Guard, Neutral("acts where a loss diverges; until then training is the same")] = Guard()

    def __post_init__(self) -> None:
        try:
            self.optimizer([nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optimizer: {error}; set recipe.<stage>.<precision>.optimizer") from error
        if self.warmup_epochs > self.epochs:
            raise ConfigError(f"recipe: warmup_epochs = {self.warmup_epochs}; allowed: 0…epochs ({self.epochs})")


class MultiPassModule(LightningModule):
    """Trains by steps of several passes, each with a backward of its own, then one optimiser step.

    All randomness of a step comes from the seed and the step's number, so a resumed run repeats an undisturbed one, and
    all ranks sample the same subnets. Between processes, gradients are averaged once a step, after the last pass.
    """

    def __init__(self, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.recipe = recipe
        self.seed = seed
        self.rate_factor = 1.0  # Factor of every learning rate: below 1 after a rollback
        self._rate_change = 1.0
        self.watch = LossWatch(recipe.guard)

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """What is trained."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Networks that share nothing but the images, by name, where there are several to save."""
        return {}

    @abstractmethod
    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[Loss]:
        """Yield name and loss of each pass; the next is asked for after the backward of the last."""

    def on_fit_start(self) -> None:
        """Put weights in channels-last order, in which convolutions are faster."""
        channels_last(self.network)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Take one optimiser step on `(images (N, 3, H, W), labels (N,))`; a diverging loss leaves the weights."""
        optimizer, schedule = cast(LightningOptimizer, self.optimizers()), cast(LRScheduler, self.lr_schedulers())
        torch.manual_seed(int(fingerprint([self.seed, self.global_step]), 16) % 2**63)
        rng = Random(f"{self.seed}-{self.global_step}")
        optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        images, labels = batch
        for name, loss in self.passes(images_last(images), labels, rng):
            self._keep_gradients_here()
            self.manual_backward(loss)
            losses[name] = loss.detach().float()
        average_gradients(self.network.parameters())
        values = torch.stack(list(losses.values()))
        average_([values])
        named = dict(zip(losses, values.tolist(), strict=True))
        self.watch.check(named, self.global_step)
        self.log_dict({f"train/{name}_loss": value for name, value in named.items()})
        self.log("loss", sum(named.values()) / len(named), prog_bar=True, logger=False)
        self.log_dict({f"train/{name}": rate for name, rate in self._rates(optimizer).items()})
        optimizer.step()
        schedule.step()

    def _rates(self, optimizer: Any) -> dict[str, float]:
        """The learning rates of this step: the recipe's, and by name those of groups that have their own."""
        return {group.get("rate_name", "lr"): float(group["lr"]) for group in optimizer.param_groups}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip gradients here, where under `16-mixed` their scale has been taken off again."""
        self.clip_gradients(optimizer, self.recipe.clip_value, "value")
        self.clip_gradients(optimizer, self.recipe.clip_norm, "norm")

    def _keep_gradients_here(self) -> None:
        """Let the next backward add to this process's gradients only.

        DDP's reducer would exchange them after every pass, or, told to wait for the last one, forget those that the
        last pass does not touch.
        """
        wrapper = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel):
            wrapper.require_backward_grad_sync = False

    def on_train_epoch_end(self) -> None:
        """Let no epoch be kept whose weights or statistics are no numbers; the last step may have made them so."""
        if fault := self.weights_fault():
            raise DivergenceError(fault, self.global_step)

    def weights_fault(self) -> str:
        """Name a weight or statistic of any process that is no number; empty where all are."""
        fault = not_finite(self.network.state_dict())
        is_well = least_(torch.tensor(not fault, dtype=torch.int32, device=self.device))
        return "" if is_well else fault or "a weight of another process is nan or infinite"

    def parameter_groups(self) -> list[dict[str, Any]]:
        """List what the optimiser is given; groups without `lr` take the recipe's."""
        return decay_groups(self.network, self.recipe.decay_all)

    def configure_optimizers(self) -> Any:
        """Make the recipe's optimiser; its rates: warm-up from a thousandth, times cosine or line to 0, by step."""
        recipe = self.recipe
        optimizer = recipe.optimizer(self.parameter_groups())
        scale = self.rate_factor
        if recipe.lr_batch_size is not None:
            images = self.trainer.datamodule.batch_size * self.trainer.world_size  # type: ignore[attr-defined]
            scale *= max(1, images // recipe.lr_batch_size)
        for group in optimizer.param_groups:
            group["lr"] *= scale
        total = max(1, int(self.trainer.estimated_stepping_batches))
        warmup = int(total * recipe.warmup_epochs / recipe.epochs)

        def factor(step: int) -> float:
            step = step // recipe.schedule_every * recipe.schedule_every
            warm = 1.0 if step >= warmup else 0.001 + 0.999 * step / warmup
            left = 1 - min(step, total) / total
            return warm * (left if recipe.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))

        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the guard has seen and the rate after rollbacks."""
        checkpoint["spaceevo"] = {"watch": dict(self.watch.means), "rate_factor": self.rate_factor}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again; a `CheckpointError` where the weights are no numbers."""
        where = f"{self.trainer.ckpt_path}, from which the run would go on (delete it to start over)"
        check_weights(checkpoint["state_dict"], where)
        kept = checkpoint["spaceevo"]
        self.watch.means = dict(kept["watch"])
        self._rate_change = self.rate_factor / kept["rate_factor"]

    def on_train_start(self) -> None:
        """After a rollback, lower the rates that the checkpoint brought back."""
        scheduler: Any = self.lr_schedulers()
        scheduler.base_lrs = [rate * self._rate_change for rate in scheduler.base_lrs]
        for group in scheduler.optimizer.param_groups:
            group["lr"] *= self._rate_change
        self._rate_change = 1.0


def decay_groups(network: nn.Module, decay_all: bool, **settings: Any) -> list[dict[str, Any]]:
    """Group a network's parameters: weights, and, unless `decay_all`, what weight decay leaves alone."""
    trained = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in trained if decay_all or p.ndim > 1]
    rest = [] if decay_all else [p for p in trained if p.ndim <= 1]
    return [{"params": decayed, **settings}, *([{"params": rest, **settings, "weight_decay": 0.0}] if rest else [])]
