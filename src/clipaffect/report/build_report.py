"""Stage ``report``: the page with its figures and tables."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from clipaffect.config.models import Config
from clipaffect.config.presets import preset_changes
from clipaffect.config.stage_keys import shard_names
from clipaffect.core.assets import known_assets
from clipaffect.core.files import read_json, write_text
from clipaffect.core.frame_status import KEYS, MEANING, FrameStatus
from clipaffect.core.layout import Layout, Report
from clipaffect.core.parquet import RowReader, read_table
from clipaffect.core.split_names import TRAIN
from clipaffect.core.tasks import Task
from clipaffect.dataset.summary_text import import_note
from clipaffect.encoders.prompts import task_prompts
from clipaffect.evaluation.intervals import FEWEST
from clipaffect.faces.crops import read_crops
from clipaffect.features.find_copies import copy_in_words
from clipaffect.report import figures
from clipaffect.report.cost import encoder_rows, head_rows
from clipaffect.report.first_page import config_yaml, run_token
from clipaffect.report.headline import answer, headline, verdicts
from clipaffect.report.pages import TASK_NAMES, page_environment, records
from clipaffect.report.paper_tables import write_paper_tables
from clipaffect.report.results import Results, read_results, unit_of
from clipaffect.report.run_record import fingerprint, run_record, weight_digests
from clipaffect.report.tables import (
    comparisons_table,
    coverage_table,
    runs_table,
    scores_table,
    steps_table,
    targets_table,
    write_tables,
)
from clipaffect.report.worst_cases import WorstCases, worst_cases

PICTURES_PER_CLASS = 3
FEW_COPIES = 3
BESIDE = ("main_table", "ablation_table", "citation", "finished")
CITATION = """\
@misc{lin2024clip,
  author = {Lin, Li and Papabathini, Sarah and Wang, Xin and Hu, Shu},
  title = {Robust Light-Weight Facial Affective Behavior Recognition with {CLIP}},
  year = {2024},
  eprint = {2403.09915},
  archivePrefix = {arXiv},
}

@software{clipaffect,
  author = {{The clipaffect authors}},
  title = {clipaffect: a reproducible {CVaR} + {SAM} pipeline for facial affect},
  year = {2026},
}
"""
MISSING = {
    "leave_out": "annotated frames without a crop of the annotated person are left out",
    "nearest": "annotated frames without a crop of the annotated person get the score of that "
    "person's nearest frame with a crop",
    "interpolate": "annotated frames without a crop of the annotated person get a score "
    "interpolated between that person's neighbouring frames with a crop",
}


def _write_figures(
    results: Results, steps: pd.DataFrame, folder: Path
) -> dict[str, dict[str, figures.Spec]]:
    """Write every figure; returns the charts for the page, by task ("" for all) and name."""
    alpha = results.config.training.headline_alpha
    drawn = {
        name: {
            "differences": figures.differences(task, alpha),
            "alpha": figures.alpha_curve(task, alpha),
            "targets": figures.target_dots(task, alpha),
            "confusion": figures.confusion_map(task, alpha),
            "calibration": figures.calibration(task, alpha),
            "classes": figures.class_shares(results.summary, task.task),
        }
        for name, task in results.tasks.items()
    }
    if results.config.postprocess.steps:
        drawn[""] = {"steps": figures.steps_slope(steps)}
    for name, kinds in drawn.items():
        for kind, chart in kinds.items():
            figures.save(chart, folder, _figure_name(kind, name))
    return {
        name: {kind: figures.for_page(chart) for kind, chart in kinds.items()}
        for name, kinds in drawn.items()
    }


def _scored_on(results: Results, tasks: dict[str, Any], unit: str) -> str:
    """How many people, or groups of them, are scored: once if all tasks have the same."""
    said = {}
    for name, own in tasks.items():
        text = f"{own['people']:,} {unit}"
        if unit == "groups of people":
            splits = results.summary["tasks"][name].items()
            count = sum(found["people"] for split, found in splits if split != TRAIN)
            text += f"; {count:,} people are annotated"
        said[name] = text
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{name}: {text}" for name, text in said.items())


def _finished(token: str, tasks: dict[str, Any]) -> str:
    """The script by which ``start.html`` learns that its run has finished, and the scores."""
    scores = []
    for name, own in tasks.items():
        low, high = own["interval"]
        known = own["headline"] is not None and low is not None
        interval = f"macro F1, 95 % interval {low:.3f} to {high:.3f}" if known else "macro F1"
        score = f"{own['headline']['mean']:.3f}" if own["headline"] is not None else "–"
        scores.append([TASK_NAMES.get(name, name), score, interval])
    return f"window.finished = {json.dumps(token)};\nwindow.scores = {json.dumps(scores)};\n"


def _figure_name(kind: str, task: str) -> str:
    return f"{kind}_{task}" if task else kind


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


Place = tuple[str, str, int]  # video, person, frame


def _crops(config: Config, folder: Path, wanted: pd.DataFrame) -> dict[Place, str]:
    """The crops of some rows, named by ``KEYS``, as data URIs; none of licensed data.

    Imported features may be of frames in which no face was found here: these are left out.
    """
    crops: dict[Place, str] = {}
    if config.data.licensed or not config.encoders or wanted.empty:
        return crops
    for shard in shard_names(config.data.shards):
        path = Layout(folder).faces(shard)
        rows = read_table(path, [*KEYS, "status"]).reset_index(names="at")
        rows = rows[rows["status"] == FrameStatus.OK].merge(wanted[KEYS], on=KEYS)
        taken = RowReader(path).take(rows["at"].to_numpy(), ["crop", "image"])
        for row, data in zip(rows.itertuples(), read_crops(taken), strict=True):
            kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
            crops[row.video, row.person, row.frame] = _data_uri(data, kind)
    return crops


def _pictures(config: Config, folder: Path) -> list[tuple[str, list[str]]]:
    """A few validation crops of each class, each of another person, as data URIs."""
    task = _pictured(config)
    if config.data.licensed or task is None or not config.encoders:
        return []
    labels = read_table(Layout(folder).table(config.encoder, task.name).rows)
    labels = labels[(labels["split"] != TRAIN) & (labels["status"] == FrameStatus.OK)]
    # The middle one of the frames that show it is near the expression's apex.
    keys = ["label", "video", "person"]
    place = labels.groupby(keys).cumcount()
    count = labels.groupby(keys)["frame"].transform("size")
    wanted = labels[place == count // 2].sort_values(keys)[[*keys, "frame"]]
    wanted = wanted.groupby("label").head(PICTURES_PER_CLASS)
    crops = _crops(config, folder, wanted)
    pictures = []
    for index, name in enumerate(task.targets):
        rows = wanted[wanted["label"] == index]
        places = [(row.video, row.person, row.frame) for row in rows.itertuples()]
        pictures.append((name, [crops[place] for place in places if place in crops]))
    return pictures


def _worst(results: Results, folder: Path) -> dict[str, WorstCases]:
    """The worst cases of each task, their faces with a ``picture`` where one may be shown."""
    found = worst_cases(results, folder)
    wanted = pd.DataFrame([face for own in found.values() for face in own.faces], columns=KEYS)
    crops = _crops(results.config, folder, wanted.drop_duplicates())
    for own in found.values():
        for face in own.faces:
            face["picture"] = crops.get((face["video"], face["person"], face["frame"]))
    return found


def _pictured(config: Config) -> Task | None:
    """The first task with classes: its validation crops are shown."""
    return next((task for task in config.tasks().values() if not task.multilabel), None)


def unknown_people(summary: dict[str, Any]) -> str:
    """What it means for a score that it is not known who is in the videos."""
    if summary["names_some"]:
        text = "It is not known for all videos or images who is in them: each of the others counts"
    else:
        text = f"Nobody has recorded who is in these {summary['unit']}: each counts"
    return (
        f"{text} as a different person. If one person is in several, the intervals are too short, "
        "and that person may be in both training and validation. data.people takes a table of who "
        "is in which video."
    )


def build_report(config: Config, folder: Path, out: Path) -> None:
    """Write the page, its figures and tables, ``metrics.json`` and ``run.json`` to ``out``.

    Args:
        config: what was run.
        folder: results/<run>.
        out: the report's folder.
    """
    results = read_results(config, folder)
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "scores": scores_table(results),
        "comparisons": comparisons_table(results),
        "steps": steps_table(results),
        "targets": targets_table(results),
        "runs": runs_table(results),
        "coverage": coverage_table(results),
    }
    files = Report(out)
    write_tables(tables, files.tables)
    numbers = headline(results)
    write_text(files.metrics, json.dumps(numbers, indent=2) + "\n")
    assets = known_assets()
    unit = unit_of(results.summary)
    answers = [answer(name, own, unit) for name, own in numbers["tasks"].items()]
    loss = config.training.loss
    context = {
        "config": config,
        "numbers": numbers,
        "answers": answers,
        "estimates": {
            name: dict(zip(own["setting"], own["estimate"], strict=True))
            for name, own in tables["scores"].groupby("task")
        },
        "table_names": list(tables),
        "with_erm": {
            name: bool(len(figures.from_erm(task))) for name, task in results.tasks.items()
        },
        "verdicts": {name: verdicts(own, loss) for name, own in numbers["tasks"].items()},
        "covered": {
            name: float((task.rows["status"] == FrameStatus.OK).mean())
            for name, task in results.tasks.items()
        },
        "unit": unit,
        "scored_on": _scored_on(results, numbers["tasks"], unit),
        "constants": {
            name: next((value for _, value in task.references()), None)
            for name, task in results.tasks.items()
        },
        "fewest": FEWEST,
        "missing": MISSING[config.evaluation.missing],
        "tasks": {name: found.task for name, found in results.tasks.items()},
        "summary": results.summary,
        "meaning": {str(outcome): text for outcome, text in MEANING.items()},
        "fingerprint": fingerprint(config),
        "config_yaml": config_yaml(config),
        "preset_changes": preset_changes(config),
        "prompts": _prompts(results),
        "costs": [*encoder_rows(config), *head_rows(results, folder)],
        "step_notes": [t.choices["note"] for t in results.tasks.values() if "note" in t.choices],
        "cautions": [
            *([] if results.summary["names_people"] else [unknown_people(results.summary)]),
            *_copies(results, folder),
            *(
                f"{name}: {assets[encoder.asset].caution}"
                for name, encoder in config.encoders.items()
                if encoder.asset is not None and assets[encoder.asset].caution
            ),
        ],
        "control": _negative_control(folder),
        "published": [] if config.data.edition is None else published_scores(),
        "imports": [
            import_note(name, read_json(Layout(folder).import_counts(name)))
            for name in config.features.imported
        ],
    } | {name: records(table) for name, table in tables.items()}
    environment = page_environment()
    drawn = _write_figures(results, tables["steps"], files.figures)
    page = environment.get_template("report.html").render(
        **context,
        figures=drawn,
        script=figures.script(),
        pictures=_pictures(config, folder),
        worst=_worst(results, folder),
        drawn_files=[
            (kind, task, _figure_name(kind, task))
            for task, charts in drawn.items()
            for kind in charts
        ],
    )
    write_text(files.page, page)
    write_text(files.citation, CITATION)
    write_text(files.finished, _finished(run_token(config, folder), numbers["tasks"]))
    write_paper_tables(results, files)
    environment.autoescape = False
    write_text(files.markdown, environment.get_template("report.md").render(**context))
    for said, (name, own) in zip(answers, numbers["tasks"].items(), strict=True):
        task = results.tasks[name]
        card = environment.get_template("card.md").render(
            **context,
            name=name,
            t=own,
            task=task.task,
            support=task.support(),
            said=said,
            weights=weight_digests(config, folder, name),
        )
        write_text(files.card(name), card)
    made = [*files.files("page", "metrics", "markdown", *BESIDE).values()]
    made += map(files.card, results.tasks)
    made += [files.tables / f"{name}.{kind}" for name in tables for kind in ("csv", "tex")]
    made += [
        files.figures / f"{_figure_name(chart, task)}{kind}"
        for task, charts in drawn.items()
        for chart in charts
        for kind in figures.KINDS
    ]
    record = run_record(config, folder, made)
    write_text(files.record, json.dumps(record, indent=2) + "\n")


def _copies(results: Results, folder: Path) -> Iterator[str]:
    """A sentence for each task with recordings in two splits, with scores on and off them."""
    alpha = results.config.training.headline_alpha
    for name, task in results.tasks.items():
        copies = read_table(Layout(folder).copies(name)).to_dict("records")
        if not copies:
            continue
        on, off = (task.mean_of(f"macro_f1_{kind}_copies", alpha) for kind in ("on", "off"))
        named = "; ".join(copy_in_words(copy) for copy in copies[:FEW_COPIES])
        more = f"; and {len(copies) - FEW_COPIES} more" if len(copies) > FEW_COPIES else ""
        pairs = "1 pair of recordings looks" if len(copies) == 1 else f"{len(copies)} pairs look"
        text = f"{name}: {pairs} like copies across splits: {named}"
        text += f"{more}. Remove one of each pair."
        if on is not None and off is not None:
            frames = task.mean_of("copied_frames", alpha)
            text += (
                f" Over the classes or labels that both show, the headline scores {on:.3f} on these"
                f" {frames:,.0f} frames and {off:.3f} on the others."
            )
        yield text


def _negative_control(folder: Path) -> list[str]:
    """The answers of the card on permuted labels; none if the studies have not been run."""
    path = Layout(folder).study("negative-control").answer
    return list(read_json(path)["answers"].values()) if path.exists() else []


def published_scores() -> list[dict[str, Any]]:
    """What others report on Aff-Wild2: system, edition, split, EXPR, AU, protocol, source, read."""
    text = resources.files("clipaffect.report").joinpath("published_scores.yaml").read_text("utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(text)
    return found


def _prompts(results: Results) -> dict[str, list[tuple[str, list[str], list[str]]]]:
    """By task, the prompts of each target, where an encoder was asked by them."""
    found = {}
    for name, task in results.tasks.items():
        if (task.metrics["method"] == "zero_shot").any():
            prompts = task_prompts(task.task, results.config.zero_shot)
            found[name] = [
                (target, *own) for target, own in zip(task.task.targets, prompts, strict=True)
            ]
    return found
