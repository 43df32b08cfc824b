"""What a run's numbers are a function of, written down beside them: ``run.json``."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clipaffect._version import __version__
from clipaffect.config.models import Config
from clipaffect.config.stage_keys import VERSIONS, shard_names
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import digest, file_digest
from clipaffect.core.layout import Layout

RECORD = "report/run.json"  # below results/<run>
PACKAGES = (
    "torch",
    "open_clip_torch",
    "timm",
    "av",
    "ai-edge-litert",
    "scikit-learn",
    "pyarrow",
    "pandas",
    "numpy",
)


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
            f"the run is not finished: {RECORD} is missing",
            where=folder,
            fix="give a results folder with a finished report, such as results/demo",
        )
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not all(kind in record for kind in ("config", "stages", "data", "code", "results")):
            raise ValueError("a part is missing")
        if "run" not in record["config"] or "clipaffect" not in record["versions"]:
            raise ValueError("the run or the version is missing")
        if not isinstance(record["results"], dict):
            raise ValueError("the list of results is none")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the file is not a run record of this version ({error})",
            where=path,
            fix="rebuild the report with 'clipaffect run'",
        ) from error
    return record


def run_record(config: Config, folder: Path, report: list[Path]) -> dict[str, Any]:
    """Everything that two runs are compared by: settings, versions, stages, data, own code.

    The labels' files say which frames, people and splits there are; ``tables`` what every
    annotated frame became; the features are what the heads were trained on. ``results`` lists the
    files that a finished run has: the report's, and those that it was made from, with their sha256.

    Args:
        config: what was run.
        folder: results/<run>.
        report: the files of its report, but for this record.
    """
    layout = Layout(folder)
    tables = {name: layout.table(config.encoder, name) for name in config.tasks()}
    files = {f"labels {name}": layout.dataset.labels(name) for name in tables}
    files |= {f"tables {name}": table.rows for name, table in tables.items()}
    return {
        "config": config.settings(),
        "versions": fingerprint(config)["versions"],
        "stages": VERSIONS,
        "tasks": list(config.tasks()),
        "data": {name: file_digest(path) for name, path in files.items()},
        "made": {f"features {name}": file_digest(table.features) for name, table in tables.items()},
        "code": {path: file_digest(Path(path)) for path in config.training.user_files()},
        "results": _digests(layout, [*_made_from(config, layout), *report])
        | dict.fromkeys(_names(layout, _made_before(config, layout))),
    }


def _names(layout: Layout, paths: list[Path]) -> list[str]:
    """Paths relative to results/<run>."""
    return [path.relative_to(layout.folder).as_posix() for path in paths]


def _digests(layout: Layout, paths: list[Path]) -> dict[str, str]:
    return dict(zip(_names(layout, paths), map(file_digest, paths), strict=True))


def _made_from(config: Config, layout: Layout) -> list[Path]:
    """The files of results/<run> that the report is made from."""
    paths = [layout.dataset.summary, *map(layout.import_counts, config.features.imported)]
    for task in config.tasks():
        paths += [
            layout.dataset.labels(task),
            *layout.table(config.encoder, task).files().values(),
            *layout.evaluation(task).files().values(),
            *(layout.heads(task, part).weights for part in range(config.training.parts)),
        ]
        if config.data.has_raters:
            paths.append(layout.agreement(task))
        if config.postprocess.steps:
            paths += layout.postprocessing(task).files("steps", "choices").values()
    return paths


def _made_before(config: Config, layout: Layout) -> list[Path]:
    """The files of results/<run> that those were made from in turn."""
    shards = shard_names(config.data.shards)
    paths = [layout.dataset.manifest(shard) for shard in shards] if config.encoders else []
    paths += [layout.frames(shard) for shard in shards] if config.encoders else []
    for name in config.feature_names():
        paths += [layout.embeddings(name, shard) for shard in shards]
        paths += [layout.references(name, task) for task in config.tasks()]
    for crop in {encoder.crop for encoder in config.encoders.values()}:
        own = "" if crop in (None, config.faces.crop) else crop
        paths += [layout.faces(shard, own) for shard in shards]
    for task in config.tasks():
        for part in range(config.training.parts):
            paths += layout.heads(task, part).files("listed", "history").values()
        if config.postprocess.steps:
            paths += layout.postprocessing(task).files("scores", "cross_fitted", "heads").values()
    return paths


def weight_digests(config: Config, folder: Path, task: str) -> dict[str, str]:
    """sha256 of the bundles of a task's heads."""
    parts = range(config.training.parts)
    layout = Layout(folder)
    return _digests(layout, [layout.heads(task, part).weights for part in parts])
