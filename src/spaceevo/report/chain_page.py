"""The page of a chain, or of several side by side: which sections there are, and in which order."""

from collections.abc import Callable, Mapping
from pathlib import Path

from spaceevo.report.chain import Chain
from spaceevo.report.deployment_sections import (
    files_section,
    latency_section,
    operators_section,
    parity_section,
    versions_section,
)
from spaceevo.report.page import Cell, Column, Facts, Section, write_report
from spaceevo.report.search_sections import front_section, spaces_section
from spaceevo.report.training_sections import CommandOf, blocks_section, curves_section, steps_section

HEADLINES: Mapping[str, tuple[tuple[str, str | None, str], ...]] = {
    "teacher top-1, fp32 %": (("teacher", "fp32", "top1"),),
    "teacher top-1, INT8 %": (("teacher", "int8", "top1"),),
    "space": (("supernet", None, "space"), ("space_search", None, "space")),
    "Q-T score": (("space_search", None, "score"),),
    "supernet top-1, fp32 %": (("supernet", "fp32", "supernet_max_fp32_top1"),),
    "supernet top-1, INT8 %": (("supernet", "int8", "supernet_max_int8_top1"),),
    "chosen subnet": (("subnet_search", None, "chosen_subnet"),),
    "its top-1, test %": (("subnet_search", None, "chosen_top1"),),
    "asked ms": (("subnet_search", None, "latency_constraint_ms"),),
    "predicted ms": (("subnet_search", None, "chosen_predicted_latency_ms"),),
    "measured ms, INT8 (benchmark)": (("benchmark", None, "int8_latency_ms"),),
    "measured ms, fp32 (benchmark)": (("benchmark", None, "fp32_latency_ms"),),
    "top-1 of the ONNX file %": (("export", None, "onnx_int8_top1"),),
    "agreement of the ONNX file %": (("export", None, "onnx_agreement"),),
}
"""What a page begins with → job, precision and figure that say it, the first that is there."""


def write_chain_page(path: Path, chains: Mapping[str, Chain], command_of: Callable[[Chain], CommandOf]) -> None:
    """Write the page of chains by their names, side by side; `command_of` gives the commands that go on with each."""
    columns = [
        Column(name, _subtitle(chain), chain_sections(chain, command_of(chain))) for name, chain in chains.items()
    ]
    write_report(path, " · ".join(chains), columns)


def chain_sections(chain: Chain, command: CommandOf) -> list[Section]:
    """Return all sections about a chain."""
    return [
        _headline_section(chain),
        steps_section(chain),
        blocks_section(chain, command),
        spaces_section(chain, command),
        curves_section(chain, command),
        front_section(chain, command),
        latency_section(chain, command),
        parity_section(chain, command),
        operators_section(chain, command),
        files_section(chain),
        versions_section(chain),
    ]


def _subtitle(chain: Chain) -> str:
    seconds = sum(step.result.seconds for step in chain.steps)
    made = [step.result.made.replace("T", " ")[:16] for step in chain.steps]
    when = f"{made[0]} to {made[-1]}, " if made else ""
    return f"{chain.root} · {when}{len(chain.steps)} steps, {seconds / 60:.1f} minutes of work"


def _headline_section(chain: Chain) -> Section:
    figures = {name: _figure(chain, sources) for name, sources in HEADLINES.items()}
    facts = {name: figure for name, figure in figures.items() if figure is not None}
    return Section(
        "In short", [Facts("", facts)] if facts else [], [] if facts else [f"No job has ended in {chain.root}."]
    )


def _figure(chain: Chain, sources: tuple[tuple[str, str | None, str], ...]) -> Cell:
    steps = ((chain.find(job, precision), name) for job, precision, name in sources)
    found = (step.result.figures.get(name) for step, name in steps if step is not None)
    return next((value for value in found if isinstance(value, int | float | str)), None)
