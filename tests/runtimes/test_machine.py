import pytest

from spaceevo.runtimes import machine as module
from spaceevo.runtimes.machine import has_vnni, instruction_sets, machine_name


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
