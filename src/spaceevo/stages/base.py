"""What every non-training stage shares: its context, skipping what is done, and how faults reach Hydra."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from spaceevo import __version__
from spaceevo.artifacts import RESULT_FILE, Layout, StageResult, atomic_path, file_hash, fingerprint, read_json
from spaceevo.collectives.launcher import is_first
from spaceevo.errors import ConfigError, MissingArtifactError, choices
from spaceevo.jobs.tracking import is_tracked, track
from spaceevo.nn.models import random_supernet, trained_supernet
from spaceevo.nn.subnets import Subnet, holds_subnet, read_subnet
from spaceevo.nn.supernet import Supernet
from spaceevo.space.description import found_space, parse_description
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.published import published_model, published_models
from spaceevo.space.superspace import SpaceMember, Superspace
from spaceevo.terminal import console as console
from spaceevo.terminal import progress as progress

log = logging.getLogger(__name__)
SETTINGS = (
    "superspace",
    "data",
    "teacher",
    "quant",
    "platform",
    "platforms",
    "seed",
    "block",
    "window",
    "space",
    "subnet",
    "checkpoint",
    "weights",
    "latency_constraint",
)
"""Settings whose change makes a stage's result out of date, besides its own recipe."""

LOADING = ("num_workers", "prefetch_factor", "cache_mib", "decoded_cache", "decoded_cache_gib")
"""Settings of `data` that say how images are loaded, not which; their change leaves artefacts current."""


@dataclass
class Outcome:
    """What a stage found: figures (unit in the name; rows of a table as a list), files, and the next command."""

    figures: dict[str, Any]
    outputs: Mapping[str, Path] = field(default_factory=dict)
    next_command: str = ""


def plain(config: DictConfig, *keys: str) -> dict[str, Any]:
    """These settings as plain values, interpolations resolved; those of `data` that decide what the images are."""
    found: dict[str, Any] = {
        key: OmegaConf.to_container(config[key], resolve=True) if OmegaConf.is_config(config[key]) else config[key]
        for key in keys
    }
    if "data" in found:
        found["data"] = {name: value for name, value in found["data"].items() if name not in LOADING}
    return found


class Context:
    """A stage's settings as plain objects; OmegaConf stops here."""

    def __init__(self, config: DictConfig, stage: str) -> None:
        self.config = config
        self.stage = stage
        self.plain = plain(config, *SETTINGS, "recipe")
        self.recipe: dict[str, Any] = self.plain["recipe"].get(stage, {})
        self.seed = int(config.seed)
        self.layout = Layout(Path(config.paths.checkpoints))
        self.lut_folder = Path(config.paths.lut)
        self.output = Path(config.paths.output)
        self.int8 = config.quant.name != "off"
        self.is_sweep = config.hydra.mode is RunMode.MULTIRUN

    @cached_property
    def superspace(self) -> Superspace:
        """The superspace."""
        return parse_description(self.plain["superspace"], source=str(self.plain["superspace"].get("name")))

    @cached_property
    def device(self) -> torch.device:
        """Where networks run: a GPU where there is one, unless `trainer.accelerator` is `cpu`."""
        wants_gpu = self.config.trainer.accelerator != "cpu"
        return torch.device("cuda" if wants_gpu and torch.cuda.is_available() else "cpu")

    @cached_property
    def data(self) -> Any:
        """The images."""
        data = instantiate(self.config.data)
        data.setup()
        return data

    @cached_property
    def teacher(self) -> Any:
        """The teacher's description."""
        return instantiate(self.config.teacher)

    @cached_property
    def platform(self) -> Any:
        """The platform latencies come from."""
        return instantiate(self.config.platform)

    def count(self, name: str) -> int:
        """A number of the stage's recipe that must be positive.

        Raises:
            ConfigError: it is not.
        """
        value = self.recipe[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"recipe.{self.stage}.{name} = {value!r}; allowed: whole numbers from 1")
        return value

    def shared(self, folder: Path) -> Path:
        """Where later stages look for a result; a job of a sweep keeps its own to itself."""
        return self.output if self.is_sweep else folder

    def command(self, stage: str, *overrides: str) -> str:
        """Command line of another stage with this superspace."""
        return " ".join(["python -m spaceevo", f"+stage={stage}", f"superspace={self.superspace.name}", *overrides])

    @cached_property
    def member(self) -> SpaceMember:
        """The space asked for, or the best of the last space search.

        Raises:
            MissingArtifactError: neither is there.
        """
        space, command = self.config.space, self.command("space_search")
        return found_space(self.layout, self.superspace, None if space is None else str(space), command)

    def subnets(self, *defaults: SubnetSpec) -> list[SubnetSpec]:
        """The subnets asked for by `subnet` — texts, `max`, `min`, published names — or the defaults.

        Raises:
            EncodingError: one is not a subnet of the space.
            ConfigError: one is no published name, or the list is empty.
        """
        asked = self.plain["subnet"]
        if asked is None:
            return list(defaults)
        texts = [asked] if isinstance(asked, str) else list(asked)
        if not texts:
            raise ConfigError("subnet = []; allowed: a subnet, max, min, a published name, or a list of them")
        found = [self._subnet(str(text)) for text in texts]
        for spec in found:
            self.member.validate(spec)
        return found

    def _subnet(self, text: str) -> SubnetSpec:
        corners = {"max": self.member.largest, "min": self.member.smallest}
        if text in corners:
            return corners[text]
        known = published_model(text).spec if "@" in text or text in published_models() else None
        return known or SubnetSpec.parse(text)

    def best_subnet(self) -> SubnetSpec:
        """The subnet asked for, or the best of the last subnet search.

        Raises:
            MissingArtifactError: neither is there.
        """
        path = self.layout.subnet_search(str(self.member)) / "front.json"
        if self.plain["subnet"] is None and not path.exists():
            raise MissingArtifactError("a subnet (subnet=…, or a found one)", path, self.command("subnet_search"))
        return self.subnets(*([] if self.plain["subnet"] else [SubnetSpec.parse(read_json(path)["chosen"])]))[0]

    @cached_property
    def given_subnet(self) -> Subnet | None:
        """The subnet whose own checkpoint is `checkpoint=…`; None without one, or where it is a supernet's.

        Raises:
            MissingArtifactError: the file is not there.
            CheckpointError: it is broken, or no subnet's.
        """
        path = Path(self.plain["checkpoint"]) if self.plain["checkpoint"] else None
        if path is None or (path.is_file() and not holds_subnet(path)):
            return None
        return read_subnet(path, self.superspace, self.command("subnet_search"))

    def supernet_file(self, int8: bool) -> Path:
        """Checkpoint of the space's supernet: `checkpoint=…`, else the one trained here, else a released one."""
        if self.plain["checkpoint"]:
            return Path(self.plain["checkpoint"])
        trained = self.layout.supernet(str(self.member), int8)
        if self.config.model and not trained.exists():
            released = self.layout.released_supernet(self.config.model.supernet, int8)
            return released if released.exists() else trained
        return trained

    def supernet(self, int8: bool) -> Supernet:
        """The space's supernet, in eval mode, quantisers on if `int8`; `weights=random` is one that was never trained.

        Raises:
            MissingArtifactError: it has not been trained; names the command.
            CheckpointError: its file is broken or belongs to another network.
            ConfigError: its INT8 weights were trained under another scheme, or `weights` is not a known word.
        """
        quant, weights = self.config.quant.name if self.int8 else "deploy", self.plain["weights"]
        scheme = quant if int8 else "deploy"
        if weights == "random":
            return random_supernet(self.member, scheme, int8=int8, seed=self.seed)
        if weights != "trained":
            raise ConfigError(f"weights = {weights!r}; allowed: trained, random")
        command = self.command("supernet", f"space={self.member}", *([f"quant={quant}"] if int8 else []))
        return trained_supernet(self.member, scheme, self.supernet_file(int8), int8=int8, command=command)

    def constraints_ms(self, platform: str | None = None) -> list[float] | None:
        """The latency constraints in ms; None for `auto`.

        Args:
            platform: whose constraints, where `latency_constraint` maps platforms to theirs.

        Raises:
            ConfigError: one is not a positive number, or the platform has none.
        """
        asked = self.plain["latency_constraint"]
        if isinstance(asked, dict):
            if platform not in asked:
                raise ConfigError(f"latency_constraint has no entry for platform {platform}; it has {choices(asked)}")
            asked = asked[platform]
        if asked == "auto":
            return None
        values = asked if isinstance(asked, list) else [asked]
        for value in values:
            if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
                raise ConfigError(
                    f"latency_constraint = {value!r}; allowed: auto, a positive number of ms, or a list of them"
                )
        return [float(value) for value in values]


class StageCallback(Callback):
    """A stage as a Hydra callback: works when the job has ended well, and fails the job if it fails itself."""

    name: str
    main_figure: str
    is_parallel = False
    """Whether several processes share the work; else the first does it alone."""

    @abstractmethod
    def work(self, context: Context) -> Outcome:
        """Do the stage's work."""

    def inputs(self, context: Context) -> dict[str, Path]:
        """Upstream files whose change makes the result out of date."""
        return {}

    def stamp(self, context: Context) -> str:
        """What else makes the result out of date, besides settings and files."""
        return ""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Run the stage; Hydra would turn an exception here into a warning, so the job is failed by hand."""
        if job_return.status is not JobStatus.COMPLETED or not (self.is_parallel or is_first()):
            return
        try:
            result = self.execute(config)
        except Exception as error:
            job_return.status = JobStatus.FAILED
            job_return.return_value = error
        else:
            job_return.return_value = result.figures.get(self.main_figure)

    def execute(self, config: DictConfig) -> StageResult:
        """Run the stage on a composed config, or skip it where nothing changed; return its result."""
        context, started = Context(config, self.name), time.monotonic()
        hashes = {name: file_hash(path) for name, path in self.inputs(context).items() if path.exists()}
        settings = {key: context.plain[key] for key in SETTINGS}
        expected = fingerprint([self.name, settings, context.recipe, hashes, self.stamp(context)])
        previous = StageResult.load(context.output)
        if previous is not None and previous.fingerprint == expected:
            console.print(f"{self.name}: unchanged, skipped ({shown(context.output)})")
            return previous
        tracked = is_tracked(config)
        outcome = self.work(context)
        result = StageResult(
            stage=self.name,
            fingerprint=expected,
            seed=context.seed,
            figures=outcome.figures,
            inputs=hashes,
            outputs={name: str(path) for name, path in outcome.outputs.items()},
            versions=package_versions(),
            seconds=round(time.monotonic() - started, 1),
        )
        if is_first():
            result.save(context.output)
            report(result, context.output, outcome.next_command)
            if tracked:
                track(config, list(config.hydra.overrides.task), result, context.output)
        return result


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, atomically."""
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def package_versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return {name: version(name) for name in ("torch", "pytorch-lightning", "onnxruntime", "numpy")} | {
        "spaceevo": __version__
    }


def shown(path: Path) -> Path:
    """A path as a user would type it here: relative where it lies below the working folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def figure_table(title: str, figures: Mapping[str, Any]) -> Table:
    """Figures as a table of names and values; long values are folded, not cut, so that they can be copied."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    return table


def report(result: StageResult, output: Path, next_command: str) -> None:
    """Print what a stage made, where, and the next command."""
    plain_figures = {name: value for name, value in result.figures.items() if not isinstance(value, list | dict)}
    console.print(figure_table(f"{result.stage} · {result.seconds:.0f} s", plain_figures))
    for name, path in result.outputs.items():
        console.print(f"  {name}: {shown(Path(path))}")
    console.print(f"  result: {shown(output / RESULT_FILE)}")
    if next_command:
        console.print(f"Next: {next_command}")
