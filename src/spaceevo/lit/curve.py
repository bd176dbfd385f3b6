"""The curve of a training: loss and rate of every epoch, and what is measured of the network now and then."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import nn

from spaceevo.artifacts.records import SCHEMA, Record
from spaceevo.errors import CheckpointError
from spaceevo.lit.module import Callback, MultiPassModule, Trainer
from spaceevo.terminal import doing, processor_seconds, tell_work

Row = dict[str, float]
STEPS, EVALUATIONS = "training steps", "evaluations"  # Kinds of work, of each network that is trained
WARM_UP = 3  # Steps, told of as one: libraries make code for shapes, of which later steps meet fewer that are new
CURVE_FILE = "curve.json"


@dataclass(frozen=True)
class CurveRecord(Record):
    """Says how the last training in a folder went: a job killed when that had ended tells of it all the same."""

    networks: Mapping[str, str]  # fingerprints of what was trained, by name
    rows: tuple[Row, ...]
    schema: int = SCHEMA  # version of this record


class Curve(Callback):
    """Records a row an epoch, and sends it to the trainer's loggers; a resumed run goes on with the rows it had.

    Args:
        figures: measures networks by name.
        say: shows a line to the user.
        tell: is told, after every step, how many are done and how many there are in all.
    """

    def __init__(
        self,
        figures: Callable[[MultiPassModule], Mapping[str, Mapping[str, float]]],
        say: Callable[[str], None],
        tell: Callable[[float, float], None] = lambda done, total: None,
    ) -> None:
        self.figures = figures
        self.say = say
        self.tell = tell
        self.rows: list[Row] = []
        self._losses: list[float] = []
        self._step_began = 0.0, 0.0  # by the clock and of processors, those that warm up together
        self._untold = 0  # steps since then
        self._warms_up = 0  # how many of the next ones warm up
        self._began, self._images = 0.0, 0  # of this epoch, as far as this process was there

    def setup(self, *args: object, **kwargs: object) -> None:
        """Begin anew; a checkpoint that training goes on from is read after this."""
        self.rows = []

    def state_dict(self) -> dict[str, Any]:
        """Keep the rows, and the losses of the epoch that is going on, beside the weights."""
        return {"rows": self.rows, "losses": self._losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up again."""
        self.rows, self._losses = list(state_dict["rows"]), list(state_dict.get("losses", ()))

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Begin to time: a run that goes on within an epoch takes steps before another epoch starts."""
        all_steps = trainer.num_training_batches * (trainer.max_epochs or 1)
        self._warms_up = int(min(WARM_UP, max(1, all_steps // 2)))
        self._begin()

    def _begin(self) -> None:
        self._step_began, self._untold = (time.monotonic(), processor_seconds()), 0
        self._began, self._images = time.monotonic(), 0

    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        """Measure what the epochs before have made, where it is time to; those are kept already."""
        self._losses = []
        every, finished = module.recipe.validate_every, trainer.current_epoch
        if every is not None and finished and finished % every == 0:
            self._look(trainer, module)
        self._begin()

    def _look(self, trainer: Trainer, module: Any) -> None:
        try:
            with undisturbed(module.network):
                measured = self.measure(module)
        except CheckpointError as error:  # a subnet may give no numbers for a while: the end decides
            self.say(f"epoch {trainer.current_epoch}: {error}")
            return
        found = self.add(trainer, module, measured)
        self.say(f"epoch {trainer.current_epoch} of {trainer.max_epochs}: {shown(found)}")

    def measure(self, module: MultiPassModule) -> Mapping[str, Mapping[str, float]]:
        """Measure the networks."""
        with doing(EVALUATIONS, _networks(module)):
            return self.figures(module)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: object, batch: Any, index: int) -> None:
        """Remember the step's loss and its images; tell how far training is."""
        self._images += len(batch[0]) * trainer.world_size
        self._losses.append(float(trainer.callback_metrics["loss"]))
        steps = float(trainer.num_training_batches)  # of an epoch
        self._tell_work(_networks(module), is_last=len(self._losses) == steps)
        self.tell(trainer.current_epoch * steps + len(self._losses), steps * (trainer.max_epochs or 1))

    def _tell_work(self, networks: int, *, is_last: bool) -> None:
        """Tell what a step took, with the time that its images took to load; those that warm up are told together."""
        self._untold += 1
        self._warms_up = max(0, self._warms_up - 1)
        if self._warms_up and not is_last:
            return
        now, before = (time.monotonic(), processor_seconds()), self._step_began
        tell_work(STEPS, now[0] - before[0], now[1] - before[1], self._untold * networks)
        self._step_began, self._untold = now, 0

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Record the mean loss of the epoch's steps, and the rate at its end; how fast it went decides nothing."""
        row = {"loss": fmean(self._losses), "lr": float(trainer.optimizers[0].param_groups[0]["lr"])}
        self.rows.append({"epoch": float(trainer.current_epoch + 1), **row})
        speed = {"images_per_second": self._images / max(time.monotonic() - self._began, 1e-9)}
        _log(trainer, {f"epoch/{name}": value for name, value in {**row, **speed}.items()})

    def add(self, trainer: Trainer, module: MultiPassModule, measured: Mapping[str, Mapping[str, float]]) -> Row:
        """Add what was measured of the networks to the last epoch's row; return it by the names it is logged under."""
        found = {
            f"{name}/{key}" if name in module.parts else key: value
            for name, figures in measured.items()
            for key, value in figures.items()
        }
        if self.rows:
            self.rows[-1] |= found
        _log(trainer, {f"val/{name}": value for name, value in found.items()})
        return found


def _networks(module: MultiPassModule) -> int:
    """The number of networks that a step trains."""
    return max(1, len(module.parts))


def shown(figures: Mapping[str, float]) -> str:
    """Write figures as users read them."""
    return ", ".join(f"{key} {value:.4g}" for key, value in figures.items())


def _log(trainer: Trainer, figures: Mapping[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(dict(figures), step=trainer.global_step)
        logger.save()


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Leave a network's modes and buffers, and the state of the generator, as they were: training goes on alike."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for module, is_training in modes:
                module.training = is_training
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
