"""bfloat16 products: as exact as their format, the same for every row, in float32 outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mt.model.linear
from mt.model.linear import Linear, bfloat16_speed

ROUNDING = 2.0**-8  # of bfloat16, relative


def layer(rows: int, products: bool, wide_output: bool = True) -> tuple[Linear, torch.Tensor]:
    torch.manual_seed(1)
    made, hidden = Linear(48, 40), torch.randn(rows, 48)
    made.bfloat16_products, made.wide_output = products, wide_output
    return made, hidden


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().double()


@pytest.mark.parametrize("rows", [1, 31, 32, 70])
def test_output_and_gradients_are_those_of_rounded_numbers(rows: int) -> None:
    made, hidden = layer(rows, products=True)
    hidden.requires_grad_()
    incoming = torch.randn(rows, 40)
    output = made(hidden)
    output.backward(incoming)
    assert {output.dtype, made.weight.grad.dtype, hidden.grad.dtype} == {torch.float32}
    x, w, g = rounded(hidden.detach()), rounded(made.weight.detach()), rounded(incoming)
    expected = {
        "output": (output, x @ w.T + rounded(made.bias.detach()), 48**0.5),
        "hidden": (hidden.grad, g @ w, 40**0.5),
        "weight": (made.weight.grad, g.T @ x, rows**0.5),
    }
    for name, (found, exact, scale) in expected.items():
        assert ((found.double() - exact).abs() <= ROUNDING * exact.abs() + 1e-5 * scale).all(), name
    torch.testing.assert_close(made.bias.grad, incoming.sum(0))


def test_leading_dimensions_and_float32_are_those_of_torch() -> None:
    made, hidden = layer(12, products=False)
    exact = torch.nn.functional.linear(hidden, made.weight, made.bias)
    assert torch.equal(made(hidden), exact)
    made.bfloat16_products = True
    assert torch.equal(made(hidden.view(3, 4, 48)).view(12, 40), made(hidden))
    assert not torch.equal(made(hidden), exact)
    torch.testing.assert_close(made(hidden), exact, atol=0.03, rtol=0.01)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    made, hidden = layer(300, products=True)
    whole = made(hidden)
    for start, end in ((0, 1), (5, 6), (7, 40), (0, 32), (100, 300), (13, 257)):
        assert torch.equal(made(hidden[start:end]), whole[start:end])


def test_an_output_that_stays_narrow_has_a_gradient_all_the_same() -> None:
    wide, hidden = layer(20, products=True)
    narrow, _ = layer(20, products=True, wide_output=False)
    outputs = [made(hidden) for made in (wide, narrow)]
    assert outputs[1].dtype == torch.bfloat16 and torch.equal(outputs[1].float(), outputs[0])
    for output in outputs:
        (output.float() ** 2).sum().backward()
    torch.testing.assert_close(narrow.weight.grad, wide.weight.grad, rtol=0.02, atol=0.3)


def test_a_processor_without_the_instructions_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flags = tmp_path / "cpuinfo"

    def there(path: str) -> Any:
        assert path == "/proc/cpuinfo"
        return flags

    monkeypatch.setattr(mt.model.linear, "Path", there)
    assert bfloat16_speed(32) == 0.0  # no such file: not Linux
    flags.write_text("flags : fpu avx2 avx512f\n")
    assert bfloat16_speed(32) == 0.0
    flags.write_text("flags : fpu avx2 amx_bf16\n")
    assert bfloat16_speed(32) > 0.0
