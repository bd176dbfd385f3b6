"""What a job is: settings, inputs, work. How it is run — skipped, resumed, reported — is `jobs/runner`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from spaceevo.artifacts import Component, Layout, Plain, StageResult, differences, file_hash, fingerprint, identity
from spaceevo.artifacts.shell import PROGRAM, command_line
from spaceevo.artifacts.work import Amount, Extent, Scale

if TYPE_CHECKING:  # jobs that build no network start without torch
    import torch

    from spaceevo.lit.datamodule import ImageFolderDataModule
    from spaceevo.platforms.base import Platform

BUDGET = "recipe.budget_hours"  # what pipelines alone are fitted into
S = TypeVar("S", covariant=True)
T = TypeVar("T")


@dataclass(frozen=True)
class Input:
    """Describes something that a job reads."""

    # gives its present state, a plain value that changes where the job's result may. It is called with the state
    # recorded beside an earlier result, or None
    state: Callable[[Plain], Plain]
    # whether the job itself may add to it without making its own result out of date, as measured blocks are added to a
    # latency table; its state is then recorded after the work
    grows: bool = False
    path: Path | None = None  # where it lies, if it is a file


def file_input(path: Path) -> Input:
    """Return a file as an input: its state is a hash of its content, empty where it does not exist."""
    return Input(lambda _: file_hash(path) if path.is_file() else "", path=path)


def value_input(value: Plain) -> Input:
    """Return a plain value that stands outside the settings as an input."""
    return Input(lambda _: value)


def images_input(data: ImageFolderDataModule) -> Input:
    """Return the images as an input: their names, labels, splits and content, wherever they lie."""
    return Input(lambda _: data.content_hash)


def platform_input(platform: Platform) -> Input:
    """Return a platform's latency table as an input; blocks measured since then leave a result current."""

    def state(known: Plain) -> Plain:  # an earlier version may have recorded another state
        return platform.table_state(known.get("entries") if isinstance(known, dict) else None)

    return Input(state, grows=True)


PIPELINE_SCHEME = "recipe.pipeline.quant"
"""The setting that names the scheme of a pipeline's steps in INT8."""


class Maker(Protocol):
    """Makes the object that a component of the settings describes."""

    def __call__(self, component: Component[T]) -> T:
        """Make it."""
        ...


@dataclass(frozen=True)
class Commands:
    """Writes the commands that follow this one: they repeat what the user gave."""

    options: tuple[str, ...] = ()  # Hydra's own options, e.g. `--config-dir conf`
    given: tuple[str, ...] = ()  # overrides of this command line, as typed, less those that say which job runs and how
    spelled: tuple[str, ...] = ()  # what an experiment that selects a job amounts to, but for the job and its recipe
    # job and scheme of quantisation → the word of an experiment beside it that selects these
    experiments: Mapping[tuple[str, str], str] = field(default_factory=dict)
    selected: str = ""  # the job that an experiment selects
    # overrides by which any job is composed as this one, such an experiment spelled out, but for a pipeline's hours
    composing: tuple[str, ...] = ()

    def __call__(self, job: str, *changes: str, without: tuple[str, ...] = ()) -> str:
        """Return the command line of a job, quoted so that it can be copied to a shell.

        The overrides `changes`, e.g. `quant=deploy`, replace or join those given, less those of the keys `without`.
        """
        dropped = {*map(override_key, changes), *without}
        kept = [text for text in self.given if override_key(text) not in dropped]
        dropped |= {*map(override_key, kept)}
        words = [*(text for text in self.spelled if override_key(text) not in dropped), *kept, *changes]
        quant = next((text.partition("=")[2] for text in words if override_key(text) == "quant"), "")
        experiment = self.experiments.get((job, quant))
        if experiment is not None:
            words = [experiment, *(text for text in (*kept, *changes) if override_key(text) != "quant")]
        else:
            words = [f"+stage={job}", *words]
        return command_line([*PROGRAM, *self.options, *words])

    @property
    def in_int8(self) -> str:
        """The override that selects INT8 networks after fp32 ones: of the pipeline's scheme, if it was told one."""
        told = (text.partition("=")[2] for text in self.given if override_key(text) == PIPELINE_SCHEME)
        return f"quant={next(told, 'deploy')}"


def override_key(override: str) -> str:
    """Return what an override sets: `quant` of `+quant=deploy`."""
    return override.partition("=")[0].lstrip("+~")


@dataclass(frozen=True)
class Workspace:
    """Says where a job works and with what."""

    layout: Layout  # names of shared artefacts
    output: Path  # folder for what only this job leaves
    lut: Path  # folder of the block look-up tables
    exported: Path  # folder of the exported files
    commands: Commands  # writes the commands that follow
    make: Maker  # makes the objects that components describe
    is_sweep: bool = False  # whether this is one of several jobs of a multirun
    force: bool = False  # whether everything is made anew, though nothing changed
    accelerator: str = "auto"  # `cpu` keeps networks off a GPU that is there
    apart: str = ""  # folder below the job's own where this run's result lies, apart from others

    @property
    def run_name(self) -> str:
        """Name of what is tracked of this job: its folder's; jobs of a sweep are numbered below it."""
        is_below = self.is_sweep or self.apart
        return f"{self.output.parent.name}/{self.output.name}" if is_below else self.output.name

    def set_apart(self, name: str) -> Workspace:
        """Return a workspace for a result that is not to replace others of its job; in a sweep none does."""
        return self if self.is_sweep else replace(self, output=self.output / name, apart=name)

    @cached_property
    def device(self) -> torch.device:
        """The GPU of this process where there is one and it is wanted, else the CPU."""
        import torch  # jobs that build no network start without it

        from spaceevo.collectives.averaging import own_device

        return torch.device("cpu") if self.accelerator == "cpu" else own_device()

    def shared(self, path: Path) -> Path:
        """Return where later jobs look for a result; a job of a sweep keeps its own to itself."""
        return self.output / path.name if self.is_sweep else path


@dataclass
class Outcome:
    """Holds what a job found."""

    figures: dict[str, Any]  # unit in the name; rows of a table as a list
    outputs: Mapping[str, Path] = field(default_factory=dict)  # files and folders made, by name
    next_command: str = ""  # what the user would run next
    device: str = "cpu"  # where networks ran
    summary: tuple[str, ...] | None = None  # figures to show at the end; None shows all that are no tables
    growing: tuple[str, ...] = ()  # names of outputs that later jobs add to


class Made(Generic[T]):
    """Gives a job the object that the component of the same name in its settings describes, made once.

    In a class: `platform = Made[Platform]()`.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, job: Job[Any], owner: type) -> T:
        made: T = job.workspace.make(getattr(job.settings, self.name))
        job.__dict__[self.name] = made  # found there from now on, before this descriptor
        return made


class Job(ABC, Generic[S]):
    """Does one of the things that `+stage=` names, from typed settings; subclasses declare, `jobs/runner` runs."""

    name: ClassVar[str]  # what `+stage=` names
    main_figure: ClassVar[str]  # the figure a sweep compares and a sweeper optimises
    # whether it trains networks: it then runs as Hydra's task, all others as Hydra's callback at the job's end
    trains: ClassVar[bool] = False
    is_parallel: ClassVar[bool] = False  # several processes share the work; else the first does it alone
    always_works: ClassVar[bool] = False  # there is nothing of its own to skip
    reads_root: ClassVar[bool] = False  # whether it tells of what lies in `paths.root`, which then must be there
    only_looks: ClassVar[bool] = False  # what it tells is of other jobs, and of the moment: no tracker keeps it
    # figures by which the jobs of a sweep are compared in a table and a picture; none are without these
    sweep_figures: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: S, workspace: Workspace) -> None:
        self.settings = settings
        self.workspace = workspace
        self.open_logger: Any = None  # Lightning's, of the network that was trained last

    @property
    def keeps_run(self) -> bool:
        """Whether what is tracked of the result belongs to the run that its one network has left open."""
        return False

    def check(self) -> None:
        """Raise where settings do not fit together, before anything is looked at; jobs add what they can tell."""

    def inputs(self) -> Mapping[str, Input]:
        """Return what the job reads besides its settings; a change makes its result out of date."""
        return {}

    def amounts(self) -> Mapping[str, Amount]:
        """Return how much work of each kind there is, as `doing` names it; nothing of jobs that are not timed ahead.

        What needs most memory comes first. It reads settings and images, and nothing that an earlier job leaves.
        """
        return {}

    def reduced(self, extent: Extent) -> Mapping[str, Plain]:
        """Return settings under which the job does a few pieces of each kind of work, by name below its own.

        How many images there are is not its to say: whoever tries it makes those fewer.
        """
        return {}

    @property
    def block_names(self) -> Sequence[str]:
        """The candidate blocks that it works on, one by one."""
        return ()

    def scales(self) -> Sequence[Scale]:
        """Return the settings that a budget may lower."""
        return ()

    @abstractmethod
    def work(self) -> Outcome:
        """Do the work."""

    @classmethod
    def merge_sweep(cls, folder: Path, jobs: Sequence[Path]) -> None:
        """Join what the jobs of a sweep left in their folders, into `folder`; most jobs have nothing to join."""

    @cached_property
    def identity(self) -> dict[str, Plain]:
        """Every setting that decides the result, by dotted name."""
        return identity(self.settings)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the job's name and of its identity."""
        return fingerprint([self.name, self.identity])

    def states(self, known: Mapping[str, Plain]) -> dict[str, Plain]:
        """Return the present state of every input; `known` are the states recorded beside an earlier result."""
        return {name: read.state(known.get(name)) for name, read in self.inputs().items()}

    def changes(self, result: StageResult, states: Mapping[str, Plain]) -> str:
        """Say what differs from the settings, inputs and files of an earlier result; nothing if it is current."""
        found = [differences(result.settings, self.identity), differences(result.inputs, states)]
        found += [f"{path} is gone" for path in result.outputs.values() if not Path(path).exists()][:1]
        found += [f"{path} is not as it was made" for path in result.changed_files()][:1]
        told = "; ".join(filter(None, found))
        return told or ("" if result.fingerprint == self.fingerprint else "an earlier version recorded less")
