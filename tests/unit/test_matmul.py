"""The product of the training step against float64."""

from __future__ import annotations

import pytest
import torch

from clipaffect.training import matmul
from clipaffect.training.matmul import affine


@pytest.fixture(
    params=[
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(not matmul.HAS_ONEDNN, reason="a torch without oneDNN")
        ),
    ],
    ids=["mm", "oneDNN"],
)
def either_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of them, whichever this processor takes."""
    monkeypatch.setattr(matmul, "TAKES_ONEDNN", request.param)


@pytest.mark.usefixtures("either_library")
@pytest.mark.parametrize("rows", [1, 2, 31, 32, 257])
def test_a_product_is_float32_throughout(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias, dz = (
        torch.randn(*shape, generator=generator)
        for shape in ((rows, 96), (40, 96), (40,), (rows, 40))
    )
    # as the step calls it: forward, backward, weight gradient, of views and their transposes
    cases = [
        (affine(x, weight, bias), x.double() @ weight.double().t() + bias.double()),
        (affine(dz, weight.t()), dz.double() @ weight.double()),
        (affine(dz.t(), x.t()), dz.double().t() @ x.double()),
        (affine(x[:, ::2], weight[:8, ::2]), x[:, ::2].double() @ weight[:8, ::2].double().t()),
    ]
    for found, exact in cases:
        # bfloat16 or TF32 would be off by 1e-3 of the largest
        assert float((found - exact).abs().max()) < 1e-5 * float(exact.abs().max())


@pytest.mark.usefixtures("either_library")
def test_the_same_product_gives_the_same_bytes_wherever_it_lies_in_memory() -> None:
    pool = torch.randn(3 + 32 * 768 + 768 * 768)
    outcomes = []
    for start in (0, 1, 3):
        values = pool.clone()
        x = values[start : start + 32 * 768].copy_(pool[: 32 * 768]).view(32, 768)
        weight = pool[-768 * 768 :].view(768, 768)
        outcomes.append(affine(x, weight))
    assert all(torch.equal(outcomes[0], other) for other in outcomes[1:])
