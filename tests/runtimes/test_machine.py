import numpy as np
import pytest

from spaceevo.runtimes import machine as module
from spaceevo.runtimes.machine import adds_exactly, has_vnni, instruction_sets, machine_name


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


def test_instruction_sets_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"flags": "sse2 avx2 avx512_vnni amx_int8"})
    assert instruction_sets() == ["avx2", "avx512_vnni", "amx_int8"]
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"Features": "fp asimd asimddp"})
    assert instruction_sets() == ["asimd", "asimddp"]


def test_sums_of_two_products_are_exact_as_far_as_16_bits_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_x86", lambda: True)
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"flags": "avx2"})
    most = max(weight for weight in range(128) if 255 * weight + 255 * weight <= np.iinfo(np.int16).max)
    assert [adds_exactly(weight) for weight in (0, 63, most, most + 1, 127)] == [True, True, True, False, False]
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"flags": "avx2 avx_vnni"})
    assert adds_exactly(127)
    monkeypatch.setattr(module, "_cpuinfo", lambda: {"Features": "asimd"})
    monkeypatch.setattr(module, "is_x86", lambda: False)
    assert adds_exactly(127)
