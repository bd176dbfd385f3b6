"""What jobs that measure a platform share: that it can be, a check on networks a fit did not see, what comes next."""

from collections.abc import Mapping
from inspect import isclass
from pathlib import Path
from pkgutil import resolve_name

from spaceevo.artifacts import Component, write_csv
from spaceevo.errors import ConfigError
from spaceevo.latency.accuracy import POOR_PERCENT, PredictionError
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.report.latency import draw_predictions
from spaceevo.space.operators import Network
from spaceevo.space.selection import parse_blocks
from spaceevo.space.superspace import Superspace
from spaceevo.stages.job import Maker, Workspace
from spaceevo.stages.profile_timings import Timed
from spaceevo.terminal import console

MEASURED = "ort_cpu, openvino_cpu, tflite_cpu, ssh, adb, or another of a runtime"


def measured_platform(make: Maker, component: Component[Platform], setting: str = "platform") -> MeasuringPlatform:
    """Make the platform of a setting, with its table as it is now; one that cannot be measured is a `ConfigError`."""
    made = resolve_name(str(component.node["_target_"]))
    is_table = isclass(made) and not issubclass(made, MeasuringPlatform)  # which need not be there to be refused
    platform = None if is_table else make(component)
    if not isinstance(platform, MeasuringPlatform):
        raise ConfigError(f"{setting} = {component.node.get('name')} cannot be measured; allowed: {MEASURED}")
    return platform


def check_unseen(
    table: LatencyTable, timed: Timed, unseen: Mapping[str, Network], output: Path, title: str
) -> tuple[PredictionError, dict[str, Path]]:
    """Compare predicted and measured latency of networks that the fit did not see; write and draw them."""
    predictor = BlockLatency(table, interpolate=True)
    predicted_ms = [predictor.predict(*network) for network in unseen.values()]
    latency_ms = timed.latency_ms
    measured_ms = [latency_ms[name] for name in unseen]
    columns = zip(unseen.values(), predicted_ms, measured_ms, strict=True)
    rows = [
        {"space": str(member), "subnet": str(spec), "predicted_ms": predicted, "measured_ms": measured}
        for (member, spec), predicted, measured in columns
    ]
    outputs = {"unseen": output / "unseen.csv", "picture": output / "unseen.png"}
    write_csv(outputs["unseen"], rows)
    draw_predictions(outputs["picture"], predicted_ms, measured_ms, title)
    error = PredictionError.of(predicted_ms, measured_ms)
    if error.mape_percent > POOR_PERCENT:
        console.print(
            f"networks that were not seen are off by {error.mape_percent:.0f} % on average: measure again while "
            "nothing else runs (force=true) before building on it"
        )
    return error, outputs


def tables_command(workspace: Workspace, superspace: Superspace, without: tuple[str, ...] = ()) -> str:
    """Return the command that takes latencies into look-up tables, where there are blocks to make them of."""
    layout = workspace.layout
    int8 = layout.quant != "off"
    files = [layout.block(superspace.name, *block, int8=int8) for block in parse_blocks(superspace, "all")]
    return workspace.commands("block_lut", without=without) if all(file.exists() for file in files) else ""
