"""What a subnet search leaves: fronts tested, extracted, measured, and written as table, CSV, JSON and picture."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from spaceevo.artifacts import FRONT_FILE, Front, FrontSubnet, sole_worker, write_csv
from spaceevo.nn.evaluate import top1
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.program import Program
from spaceevo.quant.quantizer import is_deployable
from spaceevo.report.front import PlatformFront, draw_fronts
from spaceevo.search.front import front
from spaceevo.search.limits import ALL_SETTINGS, UNITS, Demand, Limit, kinds_of, told_keys
from spaceevo.space.cost import subnet_cost
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.extraction import Extraction
from spaceevo.stages.front_search import Found
from spaceevo.stages.job import Outcome
from spaceevo.stages.selection import SupernetBasedJob
from spaceevo.stages.settings import SupernetSettings, one_or_all
from spaceevo.stages.subnet_figures import column_of
from spaceevo.terminal import console, doing, print_rows, progress

COLUMNS = {
    "platform": "platform",
    "asked_ms": "asked",
    "latency_ms": "predicted ms",
    "measured_ms": "measured ms",
    "held_out_top1": "held-out %",
    "top1": "test %",
    "mmacs": "MMACs",
    "mparams": "MParams",
    "file_kb": "file kB",
    "peak_ram_kb": "RAM kB",
    "file": "file",
}
TESTED = "tested subnets"  # A kind of work
OPTIONAL = ("latency_ms", "measured_ms", "mparams", "file_kb", "peak_ram_kb")
"""Columns that are printed only where they tell something: what no subnet has, and what was not limited."""
Evaluated = Sequence[tuple[float, float]]  # What the front is low in, and top-1 in percent, of subnets
BYTES: tuple[Demand, ...] = ("file_kb", "peak_ram_kb")  # Known only where they are limited
Row = dict[str, Any]


@runtime_checkable
class Measures(Protocol):
    """A platform that is at hand."""

    machine: str  # on which it measures

    def measured_ms(self, models: Mapping[str, Program]) -> Mapping[str, float]:
        """Measure the latency in ms of programs."""
        ...


@dataclass
class Extracted:
    """A subnet that stands alone."""

    network: Network  # with batch-norm statistics of its own
    number: str  # of its checkpoints, as a text
    top1: float  # on the test images, in percent
    files: dict[str, str]  # its checkpoints by precision


@dataclass(frozen=True)
class FrontFiles:
    """Writes what a search found."""

    job: SupernetBasedJob[SupernetSettings]  # which searched

    def write(self, supernet: Supernet, fronts: Sequence[Found], platforms: Mapping[str, object]) -> Outcome:
        """Test, extract and measure the subnets of all fronts; write and print everything."""
        file = self.job.workspace.shared(self.job.front_file)
        with sole_worker(file.with_name(".front.lock"), console.print):  # searches elsewhere leave theirs here too
            return self._write(file, supernet, fronts, platforms)

    def _write(
        self, file: Path, supernet: Supernet, fronts: Sequence[Found], platforms: Mapping[str, object]
    ) -> Outcome:
        workspace, settings = self.job.workspace, self.job.settings
        file.unlink(missing_ok=True)  # it names files that are about to be others; written last, it names whole ones
        specs = list(dict.fromkeys(spec for found in fronts for spec in found.shown))
        extracted = self._test_and_extract(supernet, specs, file.parent / "subnets")
        rows = [row for found in fronts for row in self._rows(found, extracted, platforms.get(found.platform))]
        limits = {f.platform: tuple(limit.ms for limit in f.limits if limit.ms is not None) for f in fronts}
        chosen = {found.platform: {it.key: str(spec) for it, spec in found.chosen.items()} for found in fronts}
        first = str(next(iter(fronts[0].chosen.values())))
        space = str(self.job.member)
        outputs = _write_tables([asdict(row) for row in rows], list(map(_drawn, fronts)), workspace.output)
        axis = column_of(fronts[0].axis)
        Front(space, first, tuple(rows), limits[fronts[0].platform], limits, chosen, axis).write(file)
        outputs |= {"chosen": file, "subnets": file.parent / "subnets"}
        changes = (f"space={space}", f"quant={settings.quant}")
        dropped = ("subnet", *ALL_SETTINGS)  # export takes the chosen one
        following = workspace.commands("export", *changes, without=dropped)
        figures = {"space": space, **_figures(fronts, rows, first)}
        if fastest := fastest_platforms(specs, fronts, platforms):
            figures["fastest"] = fastest
            told = [{"subnet": subnet, "platform": name} for subnet, name in fastest.items()]
            print_rows(
                told, {"platform": "fastest", "subnet": "subnet"}, "the fastest platform of each subnet, as predicted"
            )
        return Outcome(figures, outputs, following, str(workspace.device))

    def _test_and_extract(
        self, supernet: Supernet, specs: Sequence[SubnetSpec], folder: Path
    ) -> dict[SubnetSpec, Extracted]:
        """Find top-1 on the test images of every subnet; keep it in INT8, and in fp32 where that supernet is there."""
        shutil.rmtree(folder, ignore_errors=True)  # those of an earlier search
        extraction, int8 = Extraction(self.job), self.job.settings.int8
        test, precision = self.job.data.test(), "int8" if int8 else "fp32"
        found: dict[SubnetSpec, Extracted] = {}
        with progress() as bar:
            for number, spec in enumerate(bar.track(specs, description="testing the front")):
                path = folder / f"{number:02d}_{precision}.pth"
                with doing(TESTED):
                    network = extraction.save(path, supernet, spec, int8=int8)
                    found[spec] = Extracted(network, f"{number:02d}", top1(supernet, test), {precision: str(path)})
        if int8 and self.job.supernet_file(int8=False).exists():
            fp32 = self.job.supernet(int8=False)
            for spec, subnet in found.items():
                path = folder / f"{subnet.number}_fp32.pth"
                extraction.save(path, fp32, spec, int8=False)
                subnet.files["fp32"] = str(path)
        return found

    def _rows(self, found: Found, extracted: Mapping[SubnetSpec, Extracted], platform: object) -> list[FrontSubnet]:
        """The subnets of a front, with their measured latency where the platform is at hand."""
        rows = []
        for spec in found.shown:
            cost = subnet_cost(self.job.member, spec)
            row = FrontSubnet(
                platform=found.platform,
                subnet=str(spec),
                asked_ms=" ".join(limit.key for limit, best in found.chosen.items() if best == spec),
                latency_ms=found.figures.latency_ms(spec),
                measured_ms=None,
                held_out_top1=found.evaluations[spec].top1,
                top1=extracted[spec].top1,
                mmacs=cost.mmacs,
                mparams=cost.mparams,
                file=extracted[spec].number,
                int8_file=extracted[spec].files.get("int8"),
                fp32_file=extracted[spec].files.get("fp32"),
                **{kind: found.figures.figure(kind, spec) for kind in BYTES if kind in kinds_of(found.limits)},
            )
            rows.append(row)
        if not isinstance(platform, Measures) or not is_deployable(self.job.settings.quant):
            return rows
        networks = {str(spec): extracted[spec].network for spec in found.shown}
        channels = self.job.superspace.input_channels
        shapes = {text: (channels, one.resolution, one.resolution) for text, one in networks.items()}
        programs = {text: to_program(one, shapes[text]) for text, one in networks.items()}
        measured_ms = platform.measured_ms(programs)
        return [replace(row, measured_ms=measured_ms[row.subnet]) for row in rows]


def _drawn(found: Found) -> PlatformFront:
    """What the picture shows of a front."""
    evaluated = [(found.cost(spec), evaluation.top1) for spec, evaluation in found.evaluations.items()]
    bounds = [limit.by_kind[found.axis] for limit in found.limits]
    return PlatformFront(found.platform, [], bounds, evaluated, column_of(found.axis), _beside(found))


def _beside(found: Found) -> str:
    """The limits that the picture's axis does not show."""
    others = [{kind: most for kind, most in limit.most if kind != found.axis} for limit in found.limits]
    return "; ".join(dict.fromkeys(str(Limit.of(each)) for each in others if each))


def _write_tables(rows: Sequence[Row], fronts: Sequence[PlatformFront], output: Path) -> dict[str, Path]:
    """Write CSV and picture of the fronts, whose rows are taken from the table; print that."""
    write_csv(output / "front.csv", rows)
    mine = [[row for row in rows if row["platform"] == each.platform] for each in fronts]
    draw_fronts(output / "front.png", [replace(each, rows=own) for each, own in zip(fronts, mine, strict=True)])
    told = {name for name in OPTIONAL if any(row.get(name) is not None for row in rows)}
    if not any(each.axis == "mparams" or UNITS["mparams"] in each.beside for each in fronts):
        told -= {"mparams"}
    shown = [{**row, "asked_ms": told_keys(row["asked_ms"])} for row in rows]
    print_rows(shown, {n: heading for n, heading in COLUMNS.items() if n not in OPTIONAL or n in told}, "fronts")
    return {"front": output / "front.csv", "picture": output / "front.png"}


def fastest_platforms(
    specs: Sequence[SubnetSpec], fronts: Sequence[Found], platforms: Mapping[str, object]
) -> dict[str, str]:
    """Tell by which platform, of several on one machine, each subnet has the least predicted latency; else nothing."""
    here = [(found, platforms.get(found.platform)) for found in fronts]
    machines = {platform.machine for _, platform in here if isinstance(platform, Measures)}
    if len(here) < 2 or len(machines) != 1 or not all(isinstance(platform, Measures) for _, platform in here):
        return {}
    fastest: dict[str, str] = {}
    for spec in specs:
        by_platform = {found.platform: ms for found in fronts if (ms := found.figures.latency_ms(spec)) is not None}
        if by_platform:
            fastest[str(spec)] = min(by_platform, key=by_platform.__getitem__)
    return fastest


def _figures(fronts: Sequence[Found], rows: Sequence[FrontSubnet], chosen: str) -> dict[str, Any]:
    row = next(row for row in rows if row.subnet == chosen)
    evaluations = {spec: evaluation for found in fronts for spec, evaluation in found.evaluations.items()}
    errors = [abs(row.latency_ms / row.measured_ms - 1) for row in rows if row.measured_ms and row.latency_ms]
    limits = fronts[0].limits
    bounds_ms = [limit.ms for limit in limits if limit.ms is not None]
    figures: dict[str, Any] = {
        "chosen_subnet": chosen,
        "chosen_top1": row.top1,
        "chosen_held_out_top1": row.held_out_top1,
        "chosen_predicted_latency_ms": row.latency_ms,
        "chosen_measured_latency_ms": row.measured_ms,
        "latency_constraint_ms": one_or_all(bounds_ms) if bounds_ms else None,
        "evaluations": len(evaluations),
        "stopped_early": sum(evaluation.stopped for evaluation in evaluations.values()),
        "evaluated_images": sum(evaluation.images for evaluation in evaluations.values()),
        "front_axis": column_of(fronts[0].axis),
        "pareto_subnets": [asdict(row) for row in rows],
    }
    if any(limit.demands for limit in limits):
        figures["limits"] = " or ".join(map(str, limits))
        asked = [kind for kind in kinds_of(limits) if kind != "ms"]
        figures |= {f"chosen_{kind}": fronts[0].figures.figure(kind, SubnetSpec.parse(chosen)) for kind in asked}
    if errors:
        figures["front_within_10_percent"] = 100.0 * sum(error <= 0.1 for error in errors) / len(errors)
    return figures


def merge_fronts(folder: Path, jobs: Sequence[Path]) -> None:
    """Join the fronts that jobs left in their folders into `front.csv` and `front.png` in the sweep's folder.

    Jobs may differ in anything: seeds or limits of one search spread over machines, platforms, supernets. Fronts of one
    platform that are low in different things cannot be joined; the first job's stay.
    """
    fronts = [Front.read(job / FRONT_FILE) for job in jobs if (job / FRONT_FILE).exists()]
    fronts = [found for found in fronts if found.axis == fronts[0].axis]
    merged: list[Row] = []
    drawn: list[PlatformFront] = []
    for name in dict.fromkeys(row.platform for found in fronts for row in found.front):
        mine = {(found.space, row.subnet): row for found in fronts for row in found.front if row.platform == name}
        axis = fronts[0].axis
        plain = [{"space": space, **asdict(row)} for (space, _), row in mine.items()]
        points = [(float(row[axis]), float(row["held_out_top1"])) for row in plain]
        merged += [plain[index] for index in front(points)]
        limits_ms = sorted({ms for found in fronts for ms in found.limits_ms.get(name, ())})
        drawn.append(PlatformFront(name, [], limits_ms if axis == "latency_ms" else [], points, axis))
    if merged:
        files = _write_tables(merged, drawn, folder)
        console.print(f"front of {len(fronts)} jobs: {files['front']}, {files['picture']}")
