"""Training of networks into checkpoints: those that are current are skipped, a killed run goes on."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

from spaceevo.artifacts import Plain, differences, fingerprint, read_sealed_json, write_sealed_json
from spaceevo.errors import CheckpointError, DataError, Stopped, fault_line, shortened
from spaceevo.lit.curve import CURVE_FILE, Curve, CurveRecord, Row, shown
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.guard import DivergenceError
from spaceevo.lit.kept import WITHIN_FILE, KeptCheckpoints, StateKeeper, resume_from
from spaceevo.lit.module import Callback, MultiPassModule, Trainer
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_checkpoint
from spaceevo.terminal import tell_progress, tell_trouble
from spaceevo.version import VERSION

Figures = dict[str, float]
IDENTITY_FILE, ROLLBACKS_FILE, RUN_FILE = "identity.json", "rollbacks.json", "run.json"


@dataclass(frozen=True)
class Trainee:
    """Describes one network to train."""

    name: str  # shown to the user; a key of the module's `parts`
    target: Path  # the checkpoint it ends in
    # everything that decides its weights, by dotted name: settings, hashes of upstream files and of images
    identity: Mapping[str, Plain]
    meta: CheckpointMeta  # what to keep beside the weights

    @property
    def fingerprint(self) -> str:
        """Hash of the name and of everything that decides the weights."""
        return fingerprint([self.name, self.identity, self.meta.to_plain()])


@dataclass
class Training:
    """Trains networks with one data module."""

    data: ImageFolderDataModule
    output: Path  # for what only this run needs: logs, and the state a killed run goes on from
    seed: int  # of everything random
    # from its folder, the epochs, extra callbacks and the id of the loggers' run
    make_trainer: Callable[[Path, int, Sequence[Callback], str], Trainer]
    say: Callable[[str], None]  # shows a line to the user
    made: dict[str, Path] = field(default_factory=dict)  # checkpoint of each network, by name
    device: str = "cpu"  # where networks were trained
    curves: dict[str, list[Row]] = field(default_factory=dict)  # of what was trained, by label; a row an epoch

    def fit(
        self,
        trainee: Trainee,
        make_module: Callable[[], MultiPassModule],
        figures: Callable[[MultiPassModule], Figures],
        *,
        anew: bool = False,
    ) -> Figures:
        """Train one network, or skip it if its checkpoint came from the same settings and inputs; return its figures.

        `make_module` builds what is trained, weights loaded; `figures` measures it afterwards; `anew` skips nothing.
        """
        name = trainee.name
        measured = self.fit_together(
            name, [trainee], lambda _: make_module(), lambda module: {name: figures(module)}, anew=anew
        )
        return measured[name]

    def fit_together(
        self,
        label: str,
        trainees: Sequence[Trainee],
        make_module: Callable[[Sequence[str]], MultiPassModule],
        figures: Callable[[MultiPassModule], Mapping[str, Figures]],
        *,
        anew: bool = False,
    ) -> dict[str, Figures]:
        """Train networks in company, one pass over the data for all; those whose checkpoints are current are skipped.

        `label` names the run's folder below `output`. `make_module` builds the module that trains the networks of given
        names, weights loaded; `figures` measures each of them afterwards; `anew` skips none.
        """
        self.made |= {trainee.name: trainee.target for trainee in trainees}
        # it may have been killed between the first network kept and the last
        goes_on = _State(self.output / label, trainees).is_open
        found = {} if anew or goes_on else self._current(trainees)
        due = {trainee.name: trainee for trainee in trainees if trainee.name not in found}
        if due:
            return found | self._fit_due(label, due, make_module, figures)
        if rows := _earlier_rows(self.output / label / CURVE_FILE, trainees):
            self.curves[label] = rows
        return found

    def _fit_due(
        self,
        label: str,
        due: Mapping[str, Trainee],
        make_module: Callable[[Sequence[str]], MultiPassModule],
        figures: Callable[[MultiPassModule], Mapping[str, Figures]],
    ) -> dict[str, Figures]:
        """Train networks in company, and keep what comes of it; the rest is as in `fit_together`."""
        started = time.monotonic()
        found: dict[str, Figures] = {}
        state = _State(self.output / label, list(due.values()))
        for line in state.begin():
            self.say(f"{label}: {line}")
        curve = Curve(
            figures,
            lambda line: self.say(f"{label}: {line}"),
            lambda done, total: tell_progress(label, f"{label}, steps", done, total),
        )
        module, trainer = self._train(label, state, lambda: make_module(list(due)), curve)
        self.device = str(trainer.strategy.root_device)
        measured = curve.measure(module)
        curve.add(trainer, module, measured)
        self.curves[label] = curve.rows
        if trainer.is_global_zero:
            networks = {name: trainee.fingerprint for name, trainee in due.items()}
            CurveRecord(networks, tuple(curve.rows)).write(self.output / label / CURVE_FILE)
        seconds = time.monotonic() - started
        for name, trainee in due.items():
            found[name] = dict(measured[name])
            if trainer.is_global_zero:
                meta = replace(trainee.meta, fingerprint=trainee.fingerprint, figures=found[name], version=VERSION)
                save_checkpoint(trainee.target, module.parts.get(name, module.network), meta)
            self.say(f"{name}: {shown(found[name])} · {seconds:.0f} s → {trainee.target}")
        if trainer.is_global_zero:
            state.remove()
        trainer.strategy.barrier()  # no process may look for a checkpoint before it is written
        return found

    def _current(self, trainees: Sequence[Trainee]) -> dict[str, Figures]:
        """Figures of the networks whose checkpoints came from the same settings and inputs."""
        found: dict[str, Figures] = {}
        for trainee in trainees:
            if not trainee.target.exists():
                continue
            try:
                meta = read_checkpoint(trainee.target, trainee.name).meta
            except CheckpointError as error:
                self.say(f"{error}; it is trained again")
                continue
            if meta.fingerprint == trainee.fingerprint:
                found[trainee.name] = dict(meta.figures)
                made = datetime.fromtimestamp(trainee.target.stat().st_mtime).isoformat(" ", "seconds")
                by = "" if meta.version == VERSION else f" by spaceevo {meta.version}"
                self.say(f"{trainee.name}: unchanged, skipped ({trainee.target}, made {made}{by})")
        return found

    def _train(
        self, label: str, state: _State, make_module: Callable[[], MultiPassModule], curve: Curve
    ) -> tuple[MultiPassModule, Trainer]:
        """Train from the last state that was kept; after a divergence, as the recipe's guard says."""
        while True:
            torch.manual_seed(self.seed)  # what a library initialises draws from the global generator
            module = make_module()
            guard = module.recipe.guard
            module.rate_factor = guard.rate_factor**state.rollbacks
            keeper = StateKeeper(state.folder, module.recipe.save_minutes)
            callbacks = [keeper, *_averages(module), curve]
            trainer = self.make_trainer(self.output / label, module.recipe.epochs, callbacks, state.run_id)
            _check_batches(module, self.data, trainer.world_size)
            for logger in trainer.loggers:
                logger.log_hyperparams(state.hyperparameters)
            trainer.strategy.checkpoint_io = KeptCheckpoints()
            resume = resume_from(state.folder, lambda line: self.say(f"{label}: {line}"))
            try:
                trainer.fit(module, self.data, ckpt_path=resume)
            except Stopped as stopped:
                kept = resume_from(state.folder)
                stopped.kept.append(f"{label}, its last state in {kept}" if kept else f"nothing of {label}")
                raise
            except DivergenceError as error:
                if guard.action == "stop" or state.rollbacks >= guard.attempts:
                    goes_on = resume_from(state.folder) is not None
                    raise error.advised(guard, goes_on=goes_on, precision=trainer.precision) from None
                state.roll_back(writes=trainer.is_global_zero)
                rate = guard.rate_factor**state.rollbacks
                line = f"{label}: {error}; rolled back, rates now times {rate:.4g}"
                self.say(line)
                tell_trouble(line)
                continue
            except Exception as error:
                if resume is None or keeper.has_begun or fault_line(error) is not None:
                    raise
                raise _unfit(resume, error) from error
            return module, trainer


def _unfit(state: Path, error: Exception) -> CheckpointError:
    """Make the error of a state that is whole, and not of this training: of another version, or put there by hand."""
    told = shortened(" ".join(str(error).split()), 200)
    return CheckpointError(f"{state} does not fit this training ({told}); move it away: the same command then goes on")


def _check_batches(module: MultiPassModule, data: ImageFolderDataModule, processes: int) -> None:
    """Raise a `DataError` where batch norm would have to train on one image at a time."""
    images = len(data.splits.train)
    trained = (m for m in module.network.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad)
    if min(data.batch_size, -(-images // processes)) < 2 and any(trained):
        raise DataError(
            f"a training batch has 1 image ({images} images, batch_size = {data.batch_size}, processes: {processes}), "
            "and batch norm needs 2 at least; set data.batch_size, data.holdout, or add images"
        )


def _averages(module: MultiPassModule) -> list[Callback]:
    decay = module.recipe.ema_decay
    return [] if decay is None else [EMAWeightAveraging(decay=decay, use_buffers=False)]


class _State:
    """Keeps what a killed run goes on from: a folder that belongs to the settings and inputs it began with."""

    def __init__(self, parent: Path, trainees: Sequence[Trainee]) -> None:
        self.parent = parent
        self.trainees = trainees
        self.identity = {
            f"{t.name}.{key}": value for t in trainees for key, value in {**t.identity, **t.meta.to_plain()}.items()
        }
        self.folder = parent / fingerprint([trainee.fingerprint for trainee in trainees])
        rollbacks = _record(self._rollbacks_file).get("rollbacks")
        self.rollbacks = rollbacks if isinstance(rollbacks, int) and rollbacks > 0 else 0

    @property
    def hyperparameters(self) -> dict[str, Plain]:
        """What decides the first network, and the names of all."""
        return {**self.trainees[0].identity, "networks": ", ".join(trainee.name for trainee in self.trainees)}

    @property
    def _rollbacks_file(self) -> Path:
        return self.folder / ROLLBACKS_FILE

    @property
    def is_open(self) -> bool:
        """Whether a run of these networks has begun, and not ended."""
        return (self.folder / IDENTITY_FILE).exists()

    def begin(self) -> list[str]:
        """Keep what the run began with; say which unfinished run cannot be gone on with, and why."""
        lines = []
        for folder in sorted({file.parent for file in self.parent.glob("*/*.ckpt")}):
            began = folder / IDENTITY_FILE
            if folder != self.folder and began.exists():
                changed = differences(_record(began), self.identity)
                lines.append(f"starts over, since an unfinished run began with other settings or inputs: {changed}")
        if not self.is_open:
            write_sealed_json(self.folder / IDENTITY_FILE, self.identity)
        if not self.run_id:
            write_sealed_json(self.folder / RUN_FILE, {"id": secrets.token_hex(4)})
        return lines

    @property
    def run_id(self) -> str:
        """The id of the loggers' run, which a run that goes on keeps; empty where there is none yet."""
        return str(_record(self.folder / RUN_FILE).get("id") or "")

    def roll_back(self, *, writes: bool) -> None:
        """Count one more return to the last finished epoch; when its state was kept within an epoch decides nothing."""
        self.rollbacks += 1
        if writes:
            (self.folder / WITHIN_FILE).unlink(missing_ok=True)
            write_sealed_json(self._rollbacks_file, {"rollbacks": self.rollbacks})

    def remove(self) -> None:
        """Forget this run and unfinished ones with other settings: it has ended well."""
        for file in self.parent.glob(f"*/{IDENTITY_FILE}"):
            shutil.rmtree(file.parent, ignore_errors=True)


def _earlier_rows(file: Path, trainees: Sequence[Trainee]) -> list[Row]:
    """The curve of the run in which networks were trained, if a file has it; none is empty."""
    try:
        record = CurveRecord.read(file)
    except (CheckpointError, FileNotFoundError):
        return []
    known = {trainee.name: trainee.fingerprint for trainee in trainees}
    return [dict(row) for row in record.rows] if record.networks.items() <= known.items() else []


def _record(path: Path) -> Mapping[str, Plain]:
    """What an unfinished run says of itself; nothing where it says nothing, or the file is damaged."""
    try:
        found = read_sealed_json(path) if path.exists() else {}
    except CheckpointError:
        return {}
    return found if isinstance(found, dict) else {}
