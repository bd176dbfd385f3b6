"""LSQ+ of one activation tensor, forward and backward: ours, plain, torch's learnable fake-quantiser, a copy."""

from __future__ import annotations

import torch
from plain import alternate, machine, plain_activation

from spaceevo.quant.lsq import lsq_plus_activation

SHAPE = (16, 64, 56, 56)  # 12.8 MB


def main(rounds: int = 20) -> None:
    """Measure and print."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(SHAPE, device=device).contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(x)
    scale, offset = (torch.tensor([value], device=device, requires_grad=True) for value in (0.03, -3.0))
    zero = torch.tensor([100.0], device=device, requires_grad=True)

    def step(form: object, integer: bool) -> None:
        leaf = x.detach().requires_grad_()
        form(leaf, scale, offset, integer_zero_point=integer).backward(grad)  # type: ignore[operator]

    def library() -> None:
        leaf = x.detach().requires_grad_()
        torch._fake_quantize_learnable_per_tensor_affine(leaf, scale, zero, 0, 255, 1.0).backward(grad)

    print(f"LSQ+ of {x.numel() * 4 / 1e6:.1f} MB, forward + backward, ms; {machine()}")
    for name, integer in (("published: real offset", False), ("deploy: integer zero point", True)):
        found = alternate(
            {
                "plain": lambda integer=integer: step(plain_activation, integer),  # type: ignore[misc]
                "ours": lambda integer=integer: step(lsq_plus_activation, integer),  # type: ignore[misc]
                "library": library,
                "copy": lambda: x.clone(),
            },
            rounds,
        )
        # forward reads and writes the tensor, backward reads two and writes one; a copy reads and writes
        share = 2.5 * found["copy"] / found["ours"]
        shown = "  ".join(f"{form} {1e3 * seconds:.2f}" for form, seconds in found.items())
        print(f"{name}: {shown}  plain/ours {found['plain'] / found['ours']:.1f}x  of copy bandwidth {share:.0%}")


if __name__ == "__main__":
    main()
