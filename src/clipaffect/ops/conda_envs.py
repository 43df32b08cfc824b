"""Write the conda environments from pyproject.toml and constraints.txt.

Each environment holds Python and pip from conda, and the pinned wheels of constraints.txt by pip:
the same files that ``make`` installs, so that the results have the same bytes. The environments of
jobs hold what jobs need; environment.yml adds what a person needs who starts a run.
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
USER_NOTE = """\
# torch is the CPU build here, for `clipaffect check` and `clipaffect predict`. Jobs have an
# environment of their own: with `environment: cuda` in the configuration, its torch is for GPUs.
"""
JOBS_NOTE = "# Snakemake then runs {name}.post-deploy.sh, which installs the packages with pip.\n"
TORCH = ("torch", "torchvision")
# Snakemake shows the output if a script fails.
SCRIPT = """\
#!/usr/bin/env bash
{head}set -euo pipefail
pip() {{ python -m pip --no-input --disable-pip-version-check --retries 2 --timeout 20 "$@"; }}
{torch}pip install --quiet --requirement /dev/stdin <<'PACKAGES'
{packages}
PACKAGES
python -c 'import torch; assert {right}, "torch is a {wrong} build"'
"""
CPU_TORCH = """\
index=${{CLIPAFFECT_TORCH_INDEX:-{index}}}
# Only torch and torchvision come from this index. As an extra index for all packages it would be
# asked about each of them, and a machine that cannot reach it would wait for each of them.
pip install --quiet --no-deps --index-url "$index" {pins} || {{
    echo "error: torch's CPU build could not be installed from $index" >&2
    echo "fix:   check the network and the proxy, or set CLIPAFFECT_TORCH_INDEX to a mirror" >&2
    exit 1
}}
"""
CUDA_TORCH = (
    "# On Linux the plain wheel of torch is the CUDA build, several GB with its libraries.\n"
)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(root: Path) -> dict[str, str]:
    """Every line of constraints.txt by package name."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if "==" in line and not line.startswith("#")]
    return {_plain(line.partition("==")[0]): line for line in pins}


def needed(root: Path, extras: tuple[str, ...]) -> list[str]:
    """Pins of the project's dependencies and everything they need, by installed metadata.

    Args:
        root: of the repository.
        extras: whose dependencies are included.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = pinned(root)
    optional = project["optional-dependencies"]
    texts = project["dependencies"] + [text for extra in extras for text in optional[extra]]
    waiting = [Requirement(text) for text in texts]
    found: set[str] = set()
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = _plain(requirement.name)
        wanted = requirement.extras or {""}
        if name == project["name"] or str(requirement) in seen:
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


JOBS = ("stages", "onnx")
PEOPLE = (*JOBS, "workflow")


def _environment(name: str, conda: tuple[str, ...], packages: list[str]) -> str:
    lines = [f"name: {name}", "channels:", "  - conda-forge", "dependencies:"]
    lines += [f"  - {spec}" for spec in (PYTHON, "pip", *conda)]
    if packages:
        lines += ["  - pip:", *(f"      - {package}" for package in packages)]
    return "\n".join(lines) + "\n"


def _cpu_build(pin: str) -> list[str]:
    """A pin that only the CPU build fulfils, on Linux, where the plain version may be CUDA's."""
    if pin.partition("==")[0] not in TORCH:
        return [pin]
    return [f"{pin}+cpu; sys_platform == 'linux'", f"{pin}; sys_platform != 'linux'"]


def environment_files(root: Path) -> dict[Path, str]:
    """environment.yml (what a user creates first) and the environments of the rules."""
    jobs = needed(root, JOBS)
    pins = " ".join(pin for pin in jobs if pin.partition("==")[0] in TORCH)
    builds = {  # of torch: how it is installed, what must hold then, and what it is otherwise
        "cpu": (CPU_TORCH.format(index=CPU_INDEX, pins=pins), "torch.version.cuda is None", "CUDA"),
        "cuda": (CUDA_TORCH, "torch.version.cuda", "CPU"),
    }
    people = [line for pin in needed(root, PEOPLE) for line in _cpu_build(pin)]
    # With the project itself: dvc.yaml and the docs call its command.
    people = [f"--extra-index-url {CPU_INDEX}", *people, "-e ."]
    envs = Path("workflow/envs")
    files = {
        Path("environment.yml"): HEAD
        + USER_NOTE
        + _environment("clipaffect", ("conda >=24.7.1", "git", "make"), people),
    }
    for name, (torch, right, wrong) in builds.items():
        files[envs / f"{name}.post-deploy.sh"] = SCRIPT.format(
            head=HEAD, torch=torch, packages="\n".join(jobs), right=right, wrong=wrong
        )
        note = JOBS_NOTE.format(name=name)
        files[envs / f"{name}.yaml"] = HEAD + note + _environment(f"clipaffect-{name}", (), [])
    return files
