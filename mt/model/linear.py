"""Linear layers, on a processor with bfloat16 products where these are faster than those in float32."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Rows are filled up to a multiple of this: oneDNN compiles a kernel for every new shape, which takes as long as a
# product of a few hundred rows (measured, AVX-512), and keeps a thousand of them.
_ROWS = 32
WORTHWHILE = 1.3
"""bfloat16 is the faster where `bfloat16_speed` is higher: what stands around the products does not get faster"""


class Linear(nn.Linear):
    """As torch's. With `bfloat16_products` its three products take bfloat16 and add up in float32; weights, their
    gradients and everything outside stay float32, as attention in bfloat16 is slow on a processor."""

    bfloat16_products = False
    wide_output = True
    """whether the output is float32 again; False where what follows is as good in bfloat16"""

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features)."""
        if not self.bfloat16_products:
            return functional.linear(hidden, self.weight, self.bias)
        product: Tensor = _Bfloat16Product.apply(hidden.flatten(0, -2), self.weight, self.bias, self.wide_output)  # type: ignore[no-untyped-call]
        return product.unflatten(0, hidden.shape[:-1])


class _Bfloat16Product(torch.autograd.Function):
    """(rows, in), (out, in), (out,) -> (rows, out)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, wide: bool) -> Tensor:
        rows, narrow = _narrow(hidden), weight.bfloat16()
        ctx.save_for_backward(rows, narrow)
        ctx.dtype = hidden.dtype
        output = functional.linear(rows, narrow, bias.bfloat16())[: len(hidden)]
        return output.to(weight.dtype) if wide else output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        narrow = _narrow(incoming)
        of_hidden = (narrow @ weight)[: len(incoming)].to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return of_hidden, (narrow.t() @ rows).float(), incoming.sum(0, dtype=torch.float32), None


def _narrow(rows: Tensor) -> Tensor:
    """(rows, width) in bfloat16, filled up with rows of zeros."""
    count = -len(rows) % _ROWS
    if not count:
        return rows.bfloat16()
    narrow = rows.new_empty((len(rows) + count, rows.size(1)), dtype=torch.bfloat16)
    narrow[: len(rows)] = rows
    narrow[len(rows) :] = 0
    return narrow


def has_bfloat16() -> bool:
    """Whether this processor has instructions for products in bfloat16; False where it is not under Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and bool(set(cpuinfo.read_text(encoding="utf-8").split()) & {"avx512_bf16", "amx_bf16"})


def bfloat16_speed(width: int) -> float:
    """How many times as fast as in float32 a layer of width x 4 width is on this processor in bfloat16, forward and
    backward, measured in less than a second; 0.0 where there are no instructions for it."""
    if not has_bfloat16():
        return 0.0
    layer, hidden = Linear(width, 4 * width), torch.randn(512, width, requires_grad=True)
    seconds = {False: float("inf"), True: float("inf")}
    for _ in range(6):  # in turns, the fastest of each: others may use the processor meanwhile
        for layer.bfloat16_products in (False, True):
            began = time.perf_counter()
            layer(hidden).sum().backward()
            seconds[layer.bfloat16_products] = min(seconds[layer.bfloat16_products], time.perf_counter() - began)
    return seconds[False] / seconds[True]
