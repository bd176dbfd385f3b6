"""Stage benchmark: measured latency of the exported files."""

from __future__ import annotations

from pathlib import Path

from spaceevo.errors import MissingArtifactError
from spaceevo.latency.measure import measure
from spaceevo.stages.base import Context, Outcome, StageCallback
from spaceevo.stages.export import FP32_FILE, INT8_FILE


class BenchmarkStage(StageCallback):
    """Measures the exported INT8 and fp32 files side by side: one thread, batch 1."""

    name = "benchmark"
    main_figure = "int8_latency_ms"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The exported files."""
        folder = Path(context.config.paths.exported)
        return {"int8": folder / INT8_FILE, "fp32": folder / FP32_FILE}

    def work(self, context: Context) -> Outcome:
        """Measure both, interleaved."""
        files = self.inputs(context)
        for name, path in files.items():
            if not path.exists():
                raise MissingArtifactError(f"the exported {name} file", path, context.command("export", "quant=deploy"))
        found = measure(
            {name: path.read_bytes() for name, path in files.items()}, repeats=int(context.recipe["repeats"])
        )
        spec = context.best_subnet()
        figures = {
            "subnet": str(spec),
            "int8_latency_ms": found["int8"],
            "fp32_latency_ms": found["fp32"],
            "int8_speedup": found["fp32"] / found["int8"],
            "predicted_latency_ms": context.platform.subnet_ms(context.member, spec),
        }
        return Outcome(figures)
