"""Times the ten published subnets in every runtime, INT8 and fp32, all files of a subnet side by side in one run.

    python experiments/runtimes/table.py [repeats] [name …]

Weights are random, on which latency does not depend. Prints a table in Markdown, milliseconds and their ratios.
"""

import sys

from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.runtimes.timing import time_models
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.published import published_model, published_models
from spaceevo.stages.bench import random_network

NAMES = {"onnxruntime": "ORT", "openvino": "OpenVINO", "litert": "LiteRT"}


def measure(name: str, repeats: int) -> dict[str, float]:
    """Time a published subnet; return ms by `runtime precision`. No convolution of the INT8 files may be in float."""
    model = published_model(name)
    assert model.spec is not None
    size, channels = model.spec.resolution, model.member.superspace.input_channels
    program = random_program(subnet_blocks(model.member, model.spec))
    network = random_network(model.member, model.spec)
    runtimes = [RUNTIMES[each] for each in NAMES]
    writers = {runtime.format: runtime for runtime in reversed(runtimes)}
    files = {f"{format} int8": writer.write(program) for format, writer in writers.items()}
    files |= {
        f"{format} fp32": writer.write_float(network, (channels, size, size)) for format, writer in writers.items()
    }
    sessions = {}
    for runtime in runtimes:
        assert not runtime.float_ops(files[f"{runtime.format} int8"]), runtime.name
        for precision in ("int8", "fp32"):
            sessions[f"{runtime.name} {precision}"] = runtime.load(files[f"{runtime.format} {precision}"])
    return {key: timing.latency_ms for key, timing in time_models(sessions, lambda it: it, repeats).items()}


def main() -> None:
    """Print the table."""
    repeats, *names = sys.argv[1:] or ["20"]
    columns = [f"{runtime} {precision}" for precision in ("int8", "fp32") for runtime in NAMES]
    headings = [f"{NAMES[column.split()[0]]} {column.split()[1].replace('int8', 'INT8')}" for column in columns]
    print("| subnet |", " | ".join(headings), "| fastest INT8 | fp32 / INT8 of each |")
    print("|---" * (len(columns) + 3) + "|")
    for name in names or [each for each in published_models() if each.startswith("SEQnet")]:
        ms = measure(name, int(repeats))
        fastest = min(NAMES, key=lambda runtime: ms[f"{runtime} int8"])
        gains = " · ".join(f"{ms[f'{runtime} fp32'] / ms[f'{runtime} int8']:.2f}" for runtime in NAMES)
        print(
            f"| {name} |",
            " | ".join(f"{ms[column]:.2f}" for column in columns),
            f"| {NAMES[fastest]} | {gains} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
