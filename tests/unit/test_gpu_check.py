"""The check of a GPU, on a pretended one: it runs, it passes, and it notices what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from pretended_gpu import DEVICE, PretendedGpu
from torch import Tensor

from clipaffect.encoders.pillow_resize import PillowResize
from clipaffect.ops import gpu_check
from clipaffect.training.backends.stacked_step import StackedStep
from clipaffect.training.losses.exact_cvar import Cvar
from clipaffect.training.step_cost import StepCost

SMALL = gpu_check.Sizes(width=128, heads=4, seeds=2, steps=2, product=16, copied=4096, crops=2)


def checked(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, gpu_check.Finding]:
    """Findings by name."""
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 8e9)
    # The search has 56 rounds of 50 operations, which the pretended device takes slowly.
    monkeypatch.setattr(gpu_check, "StackedPublishedCvar", Cvar)
    monkeypatch.setattr(gpu_check, "step_cost", lambda *_: StepCost(200, 4e9, 3e10))
    with PretendedGpu(monkeypatch):
        found, figures = gpu_check.run_checks(DEVICE, SMALL, list(names))
    assert figures["failed"] == {}
    return {finding.name: finding for finding in found}


def test_every_promise_that_needs_no_process_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked(monkeypatch, "resizing", "masks", "step", "rate")
    promised = [finding.holds for finding in found.values() if finding.holds is not None]
    assert len(promised) == 9
    assert all(promised)
    assert found["training of 4 heads, batch 32, fp32"].value > 0
    assert found["training of 4 heads, batch 32, fp32, published search"].value > 0


def test_a_device_that_computes_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = PillowResize.__call__

    def off(own: PillowResize, levels: Tensor) -> Tensor:
        found = resize(own, levels)
        return found + 1 if own.weights.device.type == DEVICE else found

    monkeypatch.setattr(PillowResize, "__call__", off)
    (finding,) = checked(monkeypatch, "resizing").values()
    assert finding.holds is False


def test_a_device_that_gives_nothing_but_nan_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = StackedStep.step

    def broken(own: StackedStep, *given: Any) -> Tensor:
        found = step(own, *given)
        return found * torch.nan if own.bias.device.type == DEVICE else found

    monkeypatch.setattr(StackedStep, "step", broken)
    assert {finding.holds for finding in checked(monkeypatch, "step").values()} == {False}


def test_without_a_gpu_the_cause_is_said(tmp_path: Path) -> None:
    """From a plain checkout: none of the packages that the other commands need is there."""
    if torch.cuda.is_available():
        pytest.skip("there is one")
    absent = ["pydantic", "scipy", "pandas", "pyarrow", "typer", "rich", "filelock", "cv2", "PIL"]
    program = (
        f"import sys\nfor name in {absent}: sys.modules[name] = None\n"
        "sys.argv = ['clipaffect', 'gpu-check']\n"
        "import runpy\nrunpy.run_module('clipaffect')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("torch cannot use a GPU: ")
    assert "fix: " in done.stderr
