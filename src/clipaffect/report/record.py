"""What a run's numbers are a function of, written down beside them: ``run.json``."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clipaffect import __version__
from clipaffect.config.models import Config
from clipaffect.digest import digest, file_digest
from clipaffect.errors import UserError
from clipaffect.stages import VERSIONS

RECORD = "report/run.json"  # below results/<run>
PACKAGES = ("torch", "open_clip_torch", "timm", "av", "ai-edge-litert", "scikit-learn", "pyarrow",
            "pandas", "numpy", "snakemake")  # fmt: skip


def fingerprint(config: Config) -> dict[str, Any]:
    """Configuration and versions."""
    values = config.settings()
    versions = {name: version(name) for name in PACKAGES} | {"clipaffect": __version__}
    return {"config": digest(values), "versions": versions}


def read_record(folder: Path) -> dict[str, Any]:
    """What a finished run says of itself: the ``run_record`` in results/<run>.

    Raises:
        UserError: the folder holds no finished report, or that of another version.
    """
    path = folder / RECORD
    if not path.is_file():
        raise UserError(
            f"no finished run: there is no {RECORD}", where=folder,
            mend="name a folder such as results/demo whose report is built",
        )  # fmt: skip
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not all(kind in record for kind in ("config", "stages", "data", "code")):
            raise ValueError("it lacks a part")
        if "run" not in record["config"] or "clipaffect" not in record["versions"]:
            raise ValueError("it names no run or version")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"it is not the record of a run by this version ({error})", where=path,
            mend="build the report again: clipaffect run",
        ) from error  # fmt: skip
    return record


def run_record(config: Config, folder: Path) -> dict[str, Any]:
    """Everything that two runs are compared by: settings, versions, stages, data, own code.

    The labels' files say which frames, people and splits there are; ``tables`` what every
    annotated frame became; the features are what the heads were trained on.

    Args:
        config: what was run.
        folder: results/<run>.
    """
    files = {f"labels {name}": f"dataset/labels/{name}.parquet" for name in config.tasks()}
    files |= {
        f"tables {name}": f"tables/{config.encoder}/{name}/rows.parquet" for name in config.tasks()
    }
    return {
        "config": config.settings(),
        "versions": fingerprint(config)["versions"],
        "stages": VERSIONS,
        "tasks": list(config.tasks()),
        "data": {name: file_digest(folder / path) for name, path in files.items()},
        "made": {
            f"features {name}": file_digest(folder / f"tables/{config.encoder}/{name}/features.npy")
            for name in config.tasks()
        },
        "code": {path: file_digest(Path(path)) for path in config.training.user_files()},
    }


def weight_digests(config: Config, folder: Path, task: str) -> dict[str, str]:
    """sha256 of the bundles of a task's heads."""
    bundles = [f"models/{task}/{part}/heads.safetensors" for part in range(config.training.parts)]
    return {path: file_digest(folder / path) for path in bundles}
