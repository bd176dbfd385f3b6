import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from spaceevo.latency import measure as module
from spaceevo.latency.measure import (
    Stillness,
    Timing,
    has_vnni,
    instruction_sets,
    machine_name,
    measure,
    provenance,
    session_of,
    time_models,
)


def matmuls(count: int, size: int) -> bytes:
    """A model of `count` matrix products in a row."""
    weight = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"]) for i in range(count)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "test",
        [value("x0", TensorProto.FLOAT, ["batch", size])],
        [value(f"x{count}", TensorProto.FLOAT, ["batch", size])],
        [weight],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def test_more_work_takes_longer(tmp_path: Path) -> None:
    file = tmp_path / "large.onnx"
    file.write_bytes(matmuls(40, 256))
    found = measure({"small": matmuls(2, 16), "large": file}, repeats=5)
    assert 0 < found["small"] < found["large"] < 1000


class Lazy(Mapping[str, bytes]):
    """Makes each model when asked; remembers the requests."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, list[str]()

    def __getitem__(self, name: str) -> bytes:
        self.made.append(name)
        return matmuls(1, 8)

    def __iter__(self) -> Iterator[str]:
        return iter([f"m{i}" for i in range(self.count)])

    def __len__(self) -> int:
        return self.count


def test_models_are_taken_group_by_group() -> None:
    models, progress = Lazy(5), list[tuple[int, int, int]]()
    found = time_models(
        models, repeats=3, group=2, on_progress=lambda done, total: progress.append((done, total, len(models.made)))
    )
    assert progress == [(2, 5, 2), (4, 5, 4), (5, 5, 5)]
    assert list(found) == models.made
    assert all(timing.dispersion >= 1 for timing in found.values())


def test_least_of_shuffled_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    order = list[str]()

    class Clock:
        def __init__(self, model: Any) -> None:
            self.name = model.decode()
            self.times = iter([3e6, 1e6, 2e6, 4e6])

        def time_ns(self) -> float:
            order.append(self.name)
            return next(self.times)

    monkeypatch.setattr(module, "_Clocked", Clock)
    models = {"a": b"a", "b": b"b"}
    load: Any = lambda model: model  # noqa: E731
    assert time_models(models, repeats=4, seed=1, load=load) == {"a": Timing(1.0, 2.5), "b": Timing(1.0, 2.5)}
    first, order[:] = list(order), []
    assert sorted(first) == list("aaaabbbb") != first
    time_models(models, repeats=4, seed=1, load=load)
    assert order == first


def test_sums_do_not_saturate() -> None:
    """255·127·2 leaves 16 bits; processors without VNNI need another kernel, which the session has to ask for."""
    channels = 64
    arrays = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "w": np.full((8, channels, 1, 1), 127, np.int8),
        "ws": np.ones(8, np.float32),
        "wz": np.zeros(8, np.int8),
        "ys": np.float32(channels * 127),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("QLinearConv", ["q", "one", "zero", "w", "ws", "wz", "ys", "zero"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 8, 4, 4])]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (y,) = session_of(model.SerializeToString()).run(None, {"x": np.full((1, channels, 4, 4), 255, np.float32)})
    assert (y == 255).all()


def test_processor_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"model name": "Xeon", "flags": "avx2 avx512_vnni"})
    assert has_vnni()
    assert machine_name() == "Xeon, with VNNI but without AMX"
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"model name": "Xeon", "flags": "avx2 avx512_vnni amx_int8"})
    assert machine_name() == "Xeon, with VNNI and AMX"
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"model name": "EPYC", "flags": "avx2"})
    assert machine_name() == "EPYC, without VNNI"
    monkeypatch.setattr(module, "_cpuinfo", dict)
    assert machine_name()
    assert not has_vnni()


def test_each_timing_follows_a_run_that_warms_the_caches() -> None:
    calls = list[str]()

    class Runner:
        def run(self) -> None:
            calls.append("run")
            sum(range(400_000))  # long enough that the model is warm after one timing

    timings = time_models({"a": b"a"}, repeats=5, load=lambda _: Runner())
    assert timings["a"].latency_ms > 0.2
    assert len(calls) == (1 + 5) * 2  # one untimed and one timed, to set the loops and then five times


class FakeClock:
    """A core that is slowed down in the moments told, a nap each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, busy: list[bool]) -> None:
        self.now_s, self.naps, self.busy = 0.0, 0, busy
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(
            Stillness, "_probe_ns", lambda _: 1500 if any(self.busy[self.naps : self.naps + 1]) else 1000
        )

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.naps += 1


def test_timings_wait_for_a_still_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [False])
    stillness = Stillness(patience=1.0, slack_s=10.0)
    stillness.wait()
    assert clock.naps == 0
    clock.busy = [True] * 7 + [False]
    stillness.wait()
    assert clock.naps == 7
    assert stillness.is_still()


def test_waiting_ends_when_out_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [False])
    stillness = Stillness(patience=2.0, slack_s=0.5)
    clock.busy = [True] * 1000
    stillness.wait()
    assert clock.now_s == pytest.approx(0.5, abs=0.06)
    clock.now_s += 1.0  # a second of measuring earns two of waiting
    stillness.wait()
    assert clock.now_s == pytest.approx(3.5, abs=0.06)


def test_instruction_sets_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"flags": "sse2 avx2 avx512_vnni amx_int8"})
    assert instruction_sets() == ["avx2", "avx512_vnni", "amx_int8"]
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"Features": "fp asimd asimddp"})
    assert instruction_sets() == ["asimd", "asimddp"]


def test_provenance_is_complete() -> None:
    record = provenance("ort_cpu")
    assert record["platform"] == "ort_cpu"
    assert record.keys() == {"platform", "machine", "instructions", "runtime", "version", "threads", "clock", "date"}
    assert all(record.values())
