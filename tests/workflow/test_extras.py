"""Prediction needs none of the extras."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from conftest import ROOT
from forked import forked

from clipaffect.cli.main import EXTRAS

# Import names that differ from the package's.
MODULES = {
    "scikit-learn": "sklearn",
    "snakemake-executor-plugin-slurm": "snakemake_executor_plugin_slurm",
    "vl-convert-python": "vl_convert",
}


class _Missing:
    """An import hook for which some packages are not installed."""

    def __init__(self, packages: set[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def extras() -> set[str]:
    """Import names of what the extras ``workflow`` and ``onnx`` install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["optional-dependencies"]["stages"],
        *(text for text in project["optional-dependencies"]["workflow"] if "[" not in text),
        *project["optional-dependencies"]["onnx"],
    ]
    names = [text.partition(">")[0].strip() for text in listed]
    return {MODULES.get(name, name) for name in names}


def without_extras() -> None:
    """Forget every module of the project and of the extras; extras cannot be imported again."""
    missing = extras()
    for name in list(sys.modules):
        if name.partition(".")[0] in missing | {"clipaffect"}:
            del sys.modules[name]
    sys.meta_path.insert(0, _Missing(missing))  # type: ignore[arg-type]


def predict(bundle: Path, clip: Path) -> None:
    without_extras()
    import clipaffect

    model = clipaffect.load_model(bundle, assets=ROOT / "assets")
    print(len(model.predict(clip, rate=1.0)), flush=True)


def export() -> None:
    without_extras()
    from clipaffect.cli.main import main

    sys.argv = ["clipaffect", "check", str(ROOT / "config/config.yaml")]
    main()


def test_prediction_needs_none_of_them(micro_bundle: Path, real_clips: Path) -> None:
    with forked(predict, micro_bundle, real_clips / "laughing.mp4") as process:
        said = process.stdout.readline()
        assert said == "472\n", process.stderr.read()


def test_a_command_names_the_extra_that_it_lacks() -> None:
    with forked(export) as process:
        said = process.stderr.read()
    assert "is not installed" in said
    assert "pip install 'clipaffect[workflow]'" in said


def test_every_extra_is_known_to_the_command_line() -> None:
    known = {name for names in EXTRAS.values() for name in names}
    assert extras() - known <= {"pygments", "snakemake_executor_plugin_slurm"}
