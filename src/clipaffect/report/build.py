"""Stage ``report``: the first page, and the report with its figures and tables."""

from __future__ import annotations

import base64
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow.parquet as pq
import yaml

from clipaffect import __version__
from clipaffect.assets import known_assets
from clipaffect.config.models import Config
from clipaffect.config.presets import preset_changes
from clipaffect.dataset.notes import class_counts, data_notes, import_note
from clipaffect.digest import digest
from clipaffect.faces.crops import read_crops
from clipaffect.outcomes import MEANING, Outcome
from clipaffect.report import figures
from clipaffect.report.results import (
    Results,
    coverage_table,
    headline,
    read_results,
    read_summary,
    runs_table,
)
from clipaffect.splits import TRAIN, folds_among
from clipaffect.stages import shard_names
from clipaffect.tables import read_frame, take_rows, write_text
from clipaffect.tasks import Task

PACKAGES = ("torch", "open_clip_torch", "timm", "av", "opencv-python-headless", "scikit-learn",
            "pyarrow", "pandas", "numpy", "snakemake")  # fmt: skip
PICTURES_PER_CLASS = 3
MISSING = {
    "leave_out": "those without a crop of the annotated person are left out",
    "nearest": "those without a crop of the annotated person take the score of that person's "
    "nearest frame with one",
    "interpolate": "those without a crop of the annotated person take a score interpolated between "
    "that person's neighbouring frames with one",
}
ALT = {
    "alpha": "Line chart of macro F1 over alpha with the references as dashed lines; the same "
    "numbers are in the table of all runs.",
    "targets": "Bar chart of F1 for each class or unit; the same numbers are in targets.csv.",
    "confusion": "Heat map of decisions against annotations; each cell shows its share.",
}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipaffect.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["count"] = lambda value: f"{int(value):,}"
    environment.filters["data_notes"] = data_notes
    environment.filters["class_counts"] = class_counts
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    return environment


def first_page(config: Config, folder: Path, out: Path) -> None:
    """Write the page that stands while the long stages run."""
    frames = [
        read_frame(folder / "frames" / f"{shard}.parquet", ["video", "status"])
        for shard in (shard_names(config.data.shards) if config.encoders else [])
    ]
    statuses = pd.concat(frames)["status"].value_counts() if frames else pd.Series(dtype=int)
    page = (
        _environment()
        .get_template("start.html")
        .render(
            config=config,
            summary=read_summary(folder),
            statuses=[(name, MEANING[Outcome(name)], count) for name, count in statuses.items()],
            heads=len(config.training.heads()) * len(config.tasks()) * _folds(folder),
            config_yaml=_yaml(config),
        )
    )
    write_text(out, page)


def _folds(folder: Path) -> int:
    """How many folds the summary speaks of; 1 without."""
    return len(folds_among(next(iter(read_summary(folder)["tasks"].values()))))


def _yaml(config: Config) -> str:
    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False)


def fingerprint(config: Config) -> dict[str, Any]:
    """What the numbers are a function of, besides the data: configuration and versions."""
    values = config.model_dump(mode="json")
    versions = {name: version(name) for name in PACKAGES} | {"clipaffect": __version__}
    return {"config": digest(values), "versions": versions}


def _write_figures(results: Results, folder: Path) -> dict[str, dict[str, str]]:
    """Write every figure; returns them by task and name as data URIs for the page."""
    alpha = results.config.training.headline_alpha
    found: dict[str, dict[str, str]] = {}
    for name, task in results.tasks.items():
        drawn = {
            "alpha": figures.alpha_curve(task, alpha),
            "targets": figures.target_bars(task, alpha, task.support()),
            "confusion": figures.confusion_map(task, alpha),
        }
        found[name] = {}
        for kind, figure in drawn.items():
            figures.save(figure, folder, f"{kind}_{name}")
            data = (folder / f"{kind}_{name}.svg").read_bytes()
            found[name][kind] = _data_uri(data, "image/svg+xml")
    return found


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _pictures(config: Config, folder: Path) -> list[tuple[str, list[str]]]:
    """A few validation crops of each class, each of another person, as data URIs."""
    task = _pictured(config)
    if config.data.licensed or task is None or not config.encoders:
        return []
    labels = read_frame(folder / "tables" / config.encoder / task.name / "rows.parquet")
    labels = labels[(labels["split"] != TRAIN) & (labels["status"] == Outcome.OK)]
    # The middle one of the frames that show it is near the expression's apex.
    keys = ["label", "video", "person"]
    place = labels.groupby(keys).cumcount()
    count = labels.groupby(keys)["frame"].transform("size")
    wanted = labels[place == count // 2].sort_values(keys)[[*keys, "frame"]]
    wanted = wanted.groupby("label").head(PICTURES_PER_CLASS)
    crops: dict[tuple[str, str, int], str] = {}
    for shard in shard_names(config.data.shards):
        path = folder / "faces" / f"{shard}.parquet"
        rows = read_frame(path, ["video", "person", "frame", "status"]).reset_index(names="at")
        rows = rows[rows["status"] == Outcome.OK].merge(wanted, on=["video", "person", "frame"])
        taken = take_rows(pq.ParquetFile(path), rows["at"].to_numpy(), ["crop", "image"])
        for row, data in zip(rows.itertuples(), read_crops(taken), strict=True):
            kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
            crops[row.video, row.person, row.frame] = _data_uri(data, kind)
    pictures = []
    for index, name in enumerate(task.targets):
        rows = wanted[wanted["label"] == index]
        places = [(row.video, row.person, row.frame) for row in rows.itertuples()]
        # Imported features may be of frames in which no face was found here.
        found = [crops[place] for place in places if place in crops]
        pictures.append((name, found))
    return pictures


def _pictured(config: Config) -> Task | None:
    """The first task with classes: its validation crops are shown."""
    return next((task for task in config.tasks().values() if not task.multilabel), None)


def _targets_table(results: Results) -> pd.DataFrame:
    rows = []
    for name, task in results.tasks.items():
        for alpha in results.config.training.alphas:
            for target, value in zip(task.task.targets, task.f1_of_targets(alpha), strict=True):
                rows.append({"task": name, "alpha": alpha, "target": target, "f1": value})
    return pd.DataFrame(rows)


def build_report(config: Config, folder: Path, out: Path) -> None:
    """Write ``index.html``, ``report.md``, ``metrics.json``, CSV tables and figures to ``out``.

    Args:
        config: what was run.
        folder: results/<run>.
        out: the report's folder.
    """
    results = read_results(config, folder)
    out.mkdir(parents=True, exist_ok=True)
    runs, coverage = runs_table(results), coverage_table(results)
    runs.to_csv(out / "runs.csv", index=False, float_format="%.6f")
    coverage.to_csv(out / "coverage.csv", index=False, float_format="%.6f")
    _targets_table(results).to_csv(out / "targets.csv", index=False, float_format="%.6f")
    numbers = headline(results)
    write_text(out / "metrics.json", json.dumps(numbers, indent=2) + "\n")
    assets = known_assets()
    context = {
        "config": config,
        "numbers": numbers,
        "missing": MISSING[config.evaluation.missing],
        "tasks": {name: found.task for name, found in results.tasks.items()},
        "summary": results.summary,
        "runs": runs.astype(object).where(runs.notna(), None).to_dict("records"),
        "coverage": coverage.to_dict("records"),
        "meaning": {str(outcome): text for outcome, text in MEANING.items()},
        "fingerprint": fingerprint(config),
        "config_yaml": _yaml(config),
        "preset_changes": preset_changes(config),
        "cautions": [
            f"{name}: {assets[encoder.asset].caution}"
            for name, encoder in config.encoders.items()
            if encoder.asset is not None and assets[encoder.asset].caution
        ],
        "imports": [
            import_note(name, json.loads((folder / f"embeddings/{name}/import.json").read_text()))
            for name in config.features.imported
        ],
    }
    environment = _environment()
    page = environment.get_template("report.html").render(
        **context,
        figures=_write_figures(results, out / "figures"),
        alt=ALT,
        pictures=_pictures(config, folder),
    )
    write_text(out / "index.html", page)
    environment.autoescape = False
    write_text(out / "report.md", environment.get_template("report.md").render(**context))
