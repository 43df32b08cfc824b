"""Write the conda environments from pyproject.toml and constraints.txt.

Each contains Python, pip and the pinned version of every package that a run needs, so that conda
and ``make`` build the same environment.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

PYTHON = "python =3.11"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
HEAD = "# Generated from pyproject.toml and constraints.txt by `clipaffect docs`; do not edit.\n"
CUDA_NOTE = "# On Linux the plain torch wheel is the CUDA build, several GB with its libraries.\n"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(root: Path) -> dict[str, str]:
    """Every line of constraints.txt by package name."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if "==" in line and not line.startswith("#")]
    return {_plain(line.partition("==")[0]): line for line in pins}


def needed(root: Path) -> list[str]:
    """Pins of the run's direct dependencies and everything they need, by installed metadata."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = pinned(root)
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["workflow"], *extras["onnx"]]
    waiting = [Requirement(text) for text in texts]
    found: set[str] = set()
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = _plain(requirement.name)
        wanted = requirement.extras or {""}
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        if name in pins:
            found.add(name)
        try:
            texts = requires(requirement.name) or []
        except PackageNotFoundError:  # a platform's own package, not installed here
            continue
        for inner in map(Requirement, texts):
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in wanted):
                waiting.append(inner)
    return [pins[name] for name in sorted(found)]


def _environment(name: str, packages: list[str], conda: list[str], index: str | None) -> str:
    lines = [f"name: {name}", "channels:", "  - conda-forge", "dependencies:"]
    lines += [f"  - {spec}" for spec in [PYTHON, "pip", *conda]]
    lines.append("  - pip:")
    if index:
        lines.append(f"      - --extra-index-url {index}")
    lines += [f"      - {package}" for package in packages]
    return "\n".join(lines) + "\n"


def environment_files(root: Path) -> dict[Path, str]:
    """environment.yml (what a user creates first) and the environments of the rules."""
    packages = needed(root)
    return {
        Path("environment.yml"): HEAD
        # With the project itself: dvc.yaml and the docs call its command.
        + _environment(
            "clipaffect", [*packages, "-e ."], ["conda >=24.7.1", "git", "make"], CPU_INDEX
        ),
        Path("workflow/envs/cpu.yaml"): HEAD
        + _environment("clipaffect-cpu", packages, [], CPU_INDEX),
        Path("workflow/envs/cuda.yaml"): HEAD
        + CUDA_NOTE
        + _environment("clipaffect-cuda", packages, [], None),
    }
