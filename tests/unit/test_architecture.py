"""The house: its rooms, and the one direction in which they import."""

from __future__ import annotations

from conftest import ROOT
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

PACKAGE = ROOT / "src/clipaffect"


def test_the_package_root_holds_the_interface_and_nothing_else() -> None:
    modules = {path.name for path in PACKAGE.glob("*.py")}
    assert modules == {"__init__.py", "__main__.py", "_version.py", "api.py"}


def test_no_import_runs_against_the_order_of_the_stages() -> None:
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS
