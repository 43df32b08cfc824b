"""The house: its rooms, and the one direction in which they import."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from forked import forked
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from clipaffect.config import training
from clipaffect.config.training import Recipe
from clipaffect.core.tasks import EXPR
from clipaffect.training import losses
from clipaffect.training.losses.base import SingleLosses
from clipaffect.training.losses.registry import build_risk

PACKAGE = ROOT / "src/clipaffect"


def test_the_package_root_holds_the_interface_and_nothing_else() -> None:
    modules = {path.name for path in PACKAGE.glob("*.py")}
    assert modules == {"__init__.py", "__main__.py", "_version.py", "api.py"}


def lint() -> None:
    print(lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS)


def test_no_import_runs_against_the_order_of_the_stages() -> None:
    with forked(lint) as process:  # it turns off every logger of its process
        assert process.stdout.readlines()[-1] == "True\n"


def test_the_page_names_the_module_of_every_rule() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    listed = dict(re.findall(r"(?m)^\| `(\w+)` \| `([\w/]+\.py)` \|", page))
    rules = {
        name
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for name, body in re.findall(
            r"(?ms)^rule (\w+):\n(.*?)(?=^rule |^use rule |\Z)", path.read_text()
        )
        if "command(" in body
    }
    assert listed.keys() == rules
    for rule, module in listed.items():
        assert f"def {rule}(" in (PACKAGE / module).read_text()
    order = re.findall(r"(?m)^\| `(\w+)` \| [^`|]*\|$", page.partition("## The rooms")[2])
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [name for name in contract["contracts"][0]["layers"][::-1] if name in order]
    assert [name for name in order if name in layers] == layers


def test_the_worked_example_is_a_whole_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    (code,) = re.findall(r"(?s)```python\n(.*?)```", page)
    (tmp_path / "margin.py").write_text(code)
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    monkeypatch.setattr(training, "LOSSES", (*training.LOSSES, "margin"))
    recipe = Recipe.model_validate({"loss": "margin"})
    risk = build_risk(recipe, float("nan"), torch.zeros(3, 1), EXPR)
    values = torch.tensor([0.05, 0.3, 1.1], dtype=torch.float64, requires_grad=True)
    found = risk(SingleLosses(values, None, torch.zeros(3, 1, 1)))
    loss = torch.relu(values - 0.1).mean()
    assert torch.allclose(found.value, loss)
    assert torch.allclose(found.weights, torch.autograd.grad(loss, values)[0])
