"""Job report: one HTML page of what a chain found, or of several chains side by side."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from annotated_types import MinLen

from spaceevo.artifacts.shell import PROGRAM, command_line
from spaceevo.errors import ConfigError
from spaceevo.report.chain import Chain, read_chain
from spaceevo.report.chain_page import write_chain_page
from spaceevo.report.status import in_folder
from spaceevo.stages.job import BUDGET, Job, Outcome, override_key
from spaceevo.stages.settings import ChainQuant

# Overrides that say what one job does, or where its own files go
OF_ONE_JOB = (
    *("stage", "quant", "force", "of", "block", "window", "subnet", "checkpoint", "weights", "format"),
    *("paths.output", "paths.exported", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"),
)


@dataclass(frozen=True)
class ReportSettings:
    """Says of which chains."""

    chains: Annotated[tuple[Path, ...], MinLen(1)]  # their folders, as `paths.root` names them
    quant: ChainQuant  # scheme whose results are shown where several lie together


class ReportJob(Job[ReportSettings]):
    """Reads what the jobs below a chain's folder left; what is not there is told in its place."""

    name = "report"
    main_figure = "steps"
    always_works = True

    def work(self) -> Outcome:
        """Read the chains and write the page.

        Raises:
            ConfigError: a chain's folder is not there, or no job has ended in it.
        """
        chains = {name: read_chain(folder).of_scheme(self.settings.quant) for name, folder in self._named().items()}
        for chain in chains.values():
            if not chain.root.is_dir() or not (chain.steps or chain.broken):
                what = "no job has ended there" if chain.root.is_dir() else "it is no folder"
                raise ConfigError(f"chains: {chain.root}: {what}; give folders of runs, such as runs/digits")
        page = self.workspace.output / "report.html"
        write_chain_page(page, chains, lambda chain: partial(self._command, chain))
        figures = {"chains": len(chains), "steps": sum(len(chain.steps) for chain in chains.values())}
        return Outcome({**figures, "page_kb": page.stat().st_size / 1e3}, {"report": page})

    def _named(self) -> Mapping[str, Path]:
        """The folders by the shortest names that tell them apart."""
        folders = [folder.absolute() for folder in self.settings.chains]
        is_clear = len({folder.name for folder in folders}) == len(folders)
        return {folder.name if is_clear else str(folder): folder for folder in folders}

    def _command(self, chain: Chain, job: str, quant: str) -> str:
        """What makes a chain's missing part, by the words that its last job was given where they fit any."""
        scheme = f"quant={quant if quant == 'off' else self.settings.quant}"
        words = _words(chain.steps[-1].result.command) if chain.steps else []
        command = self.workspace.commands(job, scheme, without=("chains", BUDGET))
        if words and not any("/" in word for word in words if override_key(word) == "experiment"):
            command = command_line([*PROGRAM, *words, f"+stage={job}", scheme])  # options of Hydra's own come first
        return in_folder(command, chain.root)


def _words(command: str) -> list[str]:
    """The words of a recorded command that serve other jobs of its chain too."""
    words = shlex.split(command)[len(PROGRAM) :]
    return [word for word in words if override_key(word) not in OF_ONE_JOB]
