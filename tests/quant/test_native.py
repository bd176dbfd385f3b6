"""The compiled form of LSQ+ against its definition: equal to the last bit."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spaceevo.quant import lsq, native
from spaceevo.quant.lsq import Grid, gradients, lsq_plus_activation, quantize

compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here: only the plain form runs")
KINDS = [(integer, dtype) for integer in (False, True) for dtype in (torch.float32, torch.bfloat16)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = torch.randn(shape) * 3
    x.flatten()[:64] = torch.arange(-8, 56) * 0.0115  # ties, halfway between integers
    x.flatten()[64] = 1e30
    return x.to(dtype), torch.randn(shape).to(dtype)


@compiled
@pytest.mark.parametrize(("integer", "dtype"), KINDS)
@pytest.mark.parametrize("shape", [(5, 7, 11, 13), (2, 9, 80, 80)])
@pytest.mark.parametrize(("low", "high"), [(0, 255), (-127, 127)])
def test_compiled_and_plain_form_are_one_function(
    integer: bool, dtype: torch.dtype, shape: tuple[int, ...], low: int, high: int
) -> None:
    kernels, (x, grad) = native.kernels(), inputs(shape, dtype)
    assert kernels is not None
    scale, offset, grid = torch.tensor(0.023), torch.tensor(-2.7), Grid(low, high, integer)
    c_grid = lsq._c_grid(scale, offset, grid)
    assert torch.equal(kernels.forward(x, c_grid, integer), quantize(x, scale, offset, grid))
    grad_x, sums = kernels.backward(x, grad, c_grid, integer)
    plain = gradients(x, grad, scale, offset, grid)
    assert torch.equal(grad_x, plain[0])
    for ours, theirs in zip(sums, plain[1:], strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-2)


@compiled
def test_a_number_that_is_none_stays_one() -> None:
    x = torch.tensor([[1.0, float("nan"), 300.0]])
    y = lsq_plus_activation(x, torch.tensor(1.0), torch.tensor(0.0))
    assert y[0, 0] == 1
    assert y[0, 1].isnan()
    assert y[0, 2] == 255


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    native.kernels.cache_clear()
    if request.param == "plain":
        monkeypatch.setenv(native.SWITCH, "0")
    yield request.param
    native.kernels.cache_clear()


def test_order_in_memory_changes_nothing(form: str) -> None:
    x, grad = torch.randn(3, 5, 6, 7), torch.randn(3, 5, 6, 7)
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        leaf = x.clone(memory_format=order).requires_grad_()
        scale, offset = (torch.tensor(value, requires_grad=True) for value in (0.02, -1.5))
        y = lsq_plus_activation(leaf, scale, offset)
        assert y.is_contiguous(memory_format=order)
        y.backward(grad)  # in the other order for channels last
        found.append((y.detach(), leaf.grad, scale.grad, offset.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_slices_and_broadcast_gradients(form: str) -> None:
    whole = torch.randn(6, 8, 5, 5, requires_grad=True)
    scale = torch.tensor(0.02, requires_grad=True)
    lsq_plus_activation(whole[:4, 2:7, 1:4, 1:4], scale, torch.tensor(-1.5)).sum().backward()
    assert whole.grad is not None
    x = whole.detach()
    inside = ((x + 1.5) / 0.02 > 0) & ((x + 1.5) / 0.02 < 255)
    expected = torch.zeros_like(x)
    expected[:4, 2:7, 1:4, 1:4] = inside[:4, 2:7, 1:4, 1:4].float()
    assert torch.equal(whole.grad, expected)


def test_half_precision_is_rounded_once(form: str) -> None:
    x = torch.randn(2, 900).bfloat16()
    y = lsq_plus_activation(x, torch.tensor(0.013), torch.tensor(-1.1), integer_zero_point=True)
    wide = lsq_plus_activation(x.float(), torch.tensor(0.013), torch.tensor(-1.1), integer_zero_point=True)
    assert torch.equal(y, wide.bfloat16())


def test_without_a_compiler_the_plain_form_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    native.kernels.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    assert native.kernels() is None
    native.kernels.cache_clear()


@pytest.fixture(scope="module")
def built() -> bytes:
    """The library, compiled once."""
    return native._compiled()


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: bytes) -> Path:
    """The library in a folder of the test's own; not loaded, for a loaded file must not change."""
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_compiled", lambda: built)
    with native._private_folder() as folder:
        return native._library(folder)


def computes_right() -> bool:
    native.kernels.cache_clear()
    kernels, x, grid = native.kernels(), torch.randn(3, 70), Grid(0, 255, True)
    native.kernels.cache_clear()
    scale, offset = torch.tensor(0.02), torch.tensor(-1.5)
    assert kernels is not None
    return torch.equal(kernels.forward(x, lsq._c_grid(scale, offset, grid), True), quantize(x, scale, offset, grid))


@compiled
def test_the_library_is_kept_where_nobody_else_writes(cached: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cached.parent.stat().st_mode & 0o777 == 0o700
    made = cached.stat().st_mtime_ns
    cached.parent.chmod(0o777)
    assert computes_right()
    assert cached.parent.stat().st_mode & 0o777 == 0o700
    assert cached.stat().st_mtime_ns == made
    assert not caplog.messages


@compiled
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_library_is_made_anew(cached: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    whole = cached.read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 4]) + whole[half + 1 :]
    cached.write_bytes({"truncated": whole[:half], "flipped": flipped, "empty": b""}[damage])
    assert computes_right()
    assert [path.read_bytes() for path in cached.parent.glob("*.so")] == [whole]
    assert caplog.messages == [f"{cached} is damaged, or not yours: it is compiled anew"]


EVIL = """
#include <stdio.h>
__attribute__((constructor)) static void run(void) { fclose(fopen("TRACE", "w")); }
void lsq_forward(void) {}
void lsq_backward(void) {}
"""


@compiled
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize("whose", ["file", "folder", "link"])
def test_what_others_left_is_not_loaded(
    cached: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, whose: str
) -> None:
    trace, source, evil = tmp_path / "trace", tmp_path / "evil.c", tmp_path / "evil.so"
    source.write_text(EVIL.replace("TRACE", str(trace)))
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(evil)], check=True)
    content = evil.read_bytes()
    planted = cached.with_name(native._named(cached.name.split(".")[0], content))
    cached.unlink()
    planted.write_bytes(content)
    os.chown(planted, 12345, 12345)
    if whose == "folder":
        os.chown(planted.parent, 12345, 12345)
    elif whose == "link":
        planted.parent.rename(tmp_path / "elsewhere")
        planted.parent.symlink_to(tmp_path / "elsewhere")
    assert computes_right()
    assert not trace.exists()
    assert len(caplog.messages) == 1
    computes_right()
    assert not trace.exists()


@compiled
@pytest.mark.slow
def test_what_a_gpu_compiles_is_the_definition() -> None:
    """The fused form, compiled for this processor: no GPU has run it."""
    x, grad = torch.randn(4, 6, 8, 8) * 3, torch.randn(4, 6, 8, 8)
    scale, offset, grid = torch.tensor(0.023), torch.tensor(-2.7), Grid(0, 255, True)
    assert torch.equal(torch.compile(quantize, dynamic=True)(x, scale, offset, grid), quantize(x, scale, offset, grid))
    fused = torch.compile(gradients, dynamic=True)(x, grad, scale, offset, grid)
    torch.testing.assert_close(fused, gradients(x, grad, scale, offset, grid), rtol=1e-5, atol=1e-3)
