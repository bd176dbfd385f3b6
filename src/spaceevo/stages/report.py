"""Job report: one HTML page of what a chain found, or of several chains side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from annotated_types import MinLen

from spaceevo.errors import ConfigError
from spaceevo.report.chain import read_chain
from spaceevo.report.chain_page import write_chain_page
from spaceevo.report.status import in_folder
from spaceevo.stages.job import BUDGET, Job, Outcome
from spaceevo.stages.settings import ChainQuant


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
        write_chain_page(page, chains, lambda root: partial(self._command, root))
        figures = {"chains": len(chains), "steps": sum(len(chain.steps) for chain in chains.values())}
        return Outcome({**figures, "page_kb": page.stat().st_size / 1e3}, {"report": page})

    def _named(self) -> Mapping[str, Path]:
        """The folders by the shortest names that tell them apart."""
        folders = [folder.absolute() for folder in self.settings.chains]
        is_clear = len({folder.name for folder in folders}) == len(folders)
        return {folder.name if is_clear else str(folder): folder for folder in folders}

    def _command(self, root: Path, job: str, quant: str) -> str:
        """What makes a chain's missing part."""
        command = self.workspace.commands(job, f"quant={quant}", without=("chains", BUDGET))
        return in_folder(command, root)
