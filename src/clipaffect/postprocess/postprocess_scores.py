"""Stage ``postprocess``: choose the post-processing steps, and measure the gain of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from clipaffect.config.models import Evaluation, Postprocess
from clipaffect.config.training import Training
from clipaffect.core import layout
from clipaffect.core.files import write_text
from clipaffect.core.frame_status import KEYS
from clipaffect.core.layout import Postprocessing
from clipaffect.core.metrics import decide, expected_calibration_error, reliability
from clipaffect.core.parquet import read_table, write_batches, write_table
from clipaffect.core.setting import Setting
from clipaffect.core.store import Store
from clipaffect.core.tasks import Task
from clipaffect.evaluation.fold_data import Scored, read_scores, score_schema, score_table
from clipaffect.evaluation.intervals import FEWEST, intervals
from clipaffect.evaluation.paired_test import holm, swap_test
from clipaffect.evaluation.person_counts import cluster_counts, count_array, macro_f1
from clipaffect.features.build_table import folds_of
from clipaffect.postprocess.cross_fitting import CannotChoose, CrossFitted, cross_fit
from clipaffect.postprocess.encoder_ensemble import Other, other_scores
from clipaffect.postprocess.smoothing import sequences
from clipaffect.postprocess.steps import COLUMNS, STEPS, Choice, Rows
from clipaffect.training.seed_heads import write_seed_heads

RAW = "heads alone"


def postprocess_scores(
    settings: Training,
    how: Postprocess,
    evaluation: Evaluation,
    encoder: str,
    task: Task,
    table: Path,
    others: list[Path],
    scored: Path,
    store: Store,
    out: Path,
) -> None:
    """Write ``steps.parquet``, ``choices.json`` and the last step's ``scores.parquet`` to ``out``.

    In ``choices.json``, ``steps`` are those that were scored, and ``final`` those of the heads that
    are handed on.

    Also writes ``cross.parquet``, the scores on which the choices were made, and
    ``heads.safetensors``, the heads of the other encoders.

    Every choice is made on cross-fitted scores of the training people; the validation scores of
    the evaluation are then taken through the steps. Under k-fold evaluation each fold has choices
    of its own, made on its own training people. Where choices cannot be made (too few people for
    every part to be left out, no finished head) the tables are empty and ``choices.json`` has a
    note.

    Args:
        settings: the ``training`` section.
        how: the ``postprocess`` section.
        evaluation: how many exchanges of people a test makes.
        encoder: the one that the heads were trained on.
        task: the task.
        table: of that encoder.
        others: tables of the encoders of ``how.encoders``, in that order.
        scored: the task's folder of the evaluation.
        store: the store.
        out: a folder.
    """
    torch.set_num_threads(1)
    parts = how.folds
    try:
        rows, scores, seeds = _headline_scores(scored, settings, task)
        crossed = {
            fold: cross_fit(table, task, fold, settings, parts, store) for fold in folds_of(table)
        }
        ensemble: dict[int, dict[str, Other]] = {}
        for fold, fitted in crossed.items():
            own = rows[rows["fold"] == fold]
            ensemble[fold] = {
                name: other_scores(other, task, fold, settings, parts, store, fitted, own, seeds)
                for name, other in zip(how.encoders, others, strict=True)
            }
    except CannotChoose as error:
        _write_note(error, task, out)
        _write_heads({}, out)
        return
    through = {
        fold: _through_steps(how.steps, fold, fitted, ensemble[fold], rows, scores, task)
        for fold, fitted in crossed.items()
    }
    together = [
        np.concatenate(found, axis=1)
        for found in zip(*(own.scores for own in through.values()), strict=True)
    ]
    choices = [choice for own in through.values() for choice in own.choices]
    final = choices if list(crossed) == [0] else _final(how.steps, ensemble, rows, scores, task)
    order = np.concatenate([np.flatnonzero(rows["fold"] == fold) for fold in crossed])
    rows = rows.iloc[order].reset_index(drop=True)
    labels, groups = rows[list(task.columns)].to_numpy(), rows["group"].to_numpy()
    frame = _steps([RAW, *how.steps], together, labels, groups, task, evaluation.resamples)
    inner = np.array([own.inner for own in through.values()])
    frame["inner_macro_f1"] = [float(np.mean(values)) for values in inner.T]
    frame["choice"] = [json.dumps({})] + [_said(choices, name) for name in how.steps]
    files = Postprocessing(out)
    write_table(files.steps, frame[COLUMNS])
    final = [{"step": row["step"], "choice": row["choice"]} for row in final]
    said = {"seeds": seeds, "steps": choices, "final": final}
    write_text(files.choices, json.dumps(said, indent=2) + "\n")
    tables = (_cross_table(fitted, fold, task) for fold, fitted in crossed.items())
    write_batches(files.cross_fitted, _cross_schema(task), tables, 65536)
    _write_scores(together[-1], seeds, rows, encoder, settings, task, out)
    # Under k-fold evaluation no head is trained on all people, so there is none to export.
    _write_heads(ensemble.get(0, {}), out)


@dataclass(frozen=True)
class _Through:
    """One fold's scores, taken through the steps.

    Attributes:
        scores: validation scores (S, n, targets) before the first step and after each.
        inner: macro F1 on the rows that the choices were made on, at the same places.
        choices: what each step is.
    """

    scores: list[np.ndarray]
    inner: list[float]
    choices: list[dict[str, Any]]


def _through_steps(
    steps: tuple[str, ...],
    fold: int,
    fitted: CrossFitted,
    others: dict[str, Other],
    rows: pd.DataFrame,
    scores: np.ndarray,
    task: Task,
) -> _Through:
    """Choose each step on cross-fitted rows; apply it to them and to the fold's validation rows."""
    own = np.flatnonzero(rows["fold"] == fold)
    mine = rows.iloc[own].reset_index(drop=True)
    inside = {name: other.training for name, other in others.items()}
    outside = {name: other.validation for name, other in others.items()}
    at = Rows(fitted.labels, sequences(fitted.rows), task, inside)
    there = Rows(mine[list(task.columns)].to_numpy(), sequences(mine), task, outside)
    chosen_on, applied_to = fitted.scores, scores[:, own]
    found = _Through([applied_to], [at.macro_f1(chosen_on)], [])
    for name in steps:
        choose, apply = STEPS[name]
        choice = choose(chosen_on, at)
        chosen_on, applied_to = apply(chosen_on, choice, at), apply(applied_to, choice, there)
        found.scores.append(applied_to)
        found.inner.append(at.macro_f1(chosen_on))
        found.choices.append({"fold": fold, "step": name, "choice": choice})
    return found


def _final(
    steps: tuple[str, ...],
    ensemble: dict[int, dict[str, Other]],
    rows: pd.DataFrame,
    scores: np.ndarray,
    task: Task,
) -> list[dict[str, Any]]:
    """The steps for heads that are trained on all people, after a k-fold evaluation.

    They are chosen on the scores of the evaluation: every row by heads that never saw the person.
    """
    outside: dict[str, np.ndarray] = {
        name: np.full(scores.shape, np.nan, np.float32) for name in next(iter(ensemble.values()))
    }
    for fold, others in ensemble.items():
        at = np.flatnonzero(rows["fold"] == fold)
        for name, other in others.items():
            outside[name][:, at] = other.validation
    everybody = Rows(rows[list(task.columns)].to_numpy(), sequences(rows), task, outside)
    found = []
    for name in steps:
        choose, apply = STEPS[name]
        choice = choose(scores, everybody)
        scores = apply(scores, choice, everybody)
        found.append({"step": name, "choice": choice})
    return found


def _write_heads(others: dict[str, Other], out: Path) -> None:
    """``heads.safetensors``: the heads of the other encoders; perhaps none."""
    weights = {
        encoder: {seed: head.state_dict() for seed, head in other.heads.items()}
        for encoder, other in others.items()
    }
    write_seed_heads(Postprocessing(out).heads, weights)


def _write_note(error: CannotChoose, task: Task, out: Path) -> None:
    """Write empty tables: the scores are left unchanged, and the report gives the reason."""
    write_table(Postprocessing(out).steps, pd.DataFrame(columns=COLUMNS))
    text = f"{error.what} ({error.where}): {error.fix}"
    note = {"note": text, "seeds": [], "steps": [], "final": []}
    write_text(Postprocessing(out).choices, json.dumps(note, indent=2) + "\n")
    write_batches(Postprocessing(out).scores, score_schema(task), [], 65536)
    write_batches(Postprocessing(out).cross_fitted, _cross_schema(task), [], 65536)


def _headline_scores(
    folder: Path, settings: Training, task: Task
) -> tuple[pd.DataFrame, np.ndarray, list[int]]:
    """The rows that were scored, and probabilities (S, n, targets) of the headline's seeds."""
    rows = read_table(layout.Evaluation(folder).rows)
    frame, scores = read_scores(
        layout.Evaluation(folder).scores, method="head", variant="", alpha=settings.headline_alpha
    )
    place = pd.MultiIndex.from_frame(rows[["fold", *KEYS]])
    found, seeds = [], []
    for seed, part in frame.groupby("seed", sort=True):
        at = place.get_indexer(pd.MultiIndex.from_frame(part[["fold", *KEYS]]))
        if len(at) < len(rows):  # a fold's head failed
            continue
        values = np.empty((len(rows), len(task.targets)), np.float32)
        values[at] = scores[part.index]
        found.append(values)
        seeds.append(int(str(seed)))
    if not found:
        raise CannotChoose(
            f"no head of {task.name} at alpha = {settings.headline_alpha:g} finished training",
            where="postprocess",
            fix="check in heads.parquet why heads failed",
        )
    return rows, np.stack(found), seeds


def _said(choices: list[dict[str, Any]], name: str) -> str:
    """The choice of a step as JSON; under k-fold evaluation, that of each fold."""
    own: list[Choice] = [row["choice"] for row in choices if row["step"] == name]
    return json.dumps(own[0] if len(own) == 1 else own)


def _steps(
    names: list[str],
    scores: list[np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray,
    task: Task,
    resamples: int,
) -> pd.DataFrame:
    """One row for each step: its validation scores, and its gain over the previous step."""
    people = sorted(set(groups))
    counts = [
        [
            count_array(
                cluster_counts(labels, decide(one, task), groups, task), people, task.targets
            )
            for one in step
        ]
        for step in scores
    ]
    members = {f"{k}/{s}": c for k, step in enumerate(counts) for s, c in enumerate(step)}
    means = [{f"{k}/{s}": 1 / len(step) for s in range(len(step))} for k, step in enumerate(counts)]
    gains = [
        {name: -share for name, share in before.items()} | after
        for before, after in pairwise(means)
    ]
    found = intervals(members, [*means, *gains])
    rows = []
    for number, name in enumerate(names):
        interval = found[number]
        gain = found[len(names) + number - 1] if number else None
        tested = number and len(people) >= FEWEST
        p = swap_test(counts[number], counts[number - 1], resamples) if tested else float("nan")
        bins = [
            expected_calibration_error(reliability(labels, one, task)) for one in scores[number]
        ]
        seeds = [float(macro_f1(c.sum(axis=0))) for c in counts[number]]
        rows.append(
            {
                "step": name,
                "seeds": len(seeds),
                "people": len(people),
                "macro_f1": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "calibration_error": float(np.mean(bins)),
                "gain": gain.estimate if gain else float("nan"),
                "gain_low": gain.low if gain else float("nan"),
                "gain_high": gain.high if gain else float("nan"),
                "p": p,
            }
        )
    table = pd.DataFrame(rows)
    table["p_adjusted"] = float("nan")
    known = table["p"].notna()
    table.loc[known, "p_adjusted"] = holm(table.loc[known, "p"].tolist())
    return table


def _cross_schema(task: Task) -> pa.Schema:
    """Columns of ``cross.parquet``: training rows, their labels, the seeds' mean probabilities."""
    return pa.schema(
        [
            ("fold", pa.int32()),
            *((name, pa.string()) for name in ("group", "video", "person")),
            ("frame", pa.int32()),
            *((name, pa.int8()) for name in task.columns),
            ("scores", pa.list_(pa.float32(), len(task.targets))),
        ]
    )


def _cross_table(fitted: CrossFitted, fold: int, task: Task) -> pa.Table:
    labels = dict(zip(task.columns, fitted.labels.T, strict=True))
    columns = ["fold", "group", "video", "person", "frame", *task.columns]
    frame = fitted.rows.assign(fold=fold, **labels)[columns]
    mean = pa.array(fitted.scores.mean(axis=0).astype(np.float32).ravel())
    column = pa.FixedSizeListArray.from_arrays(mean, len(task.targets))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.append_column("scores", column).cast(_cross_schema(task))


def _write_scores(
    scores: np.ndarray,
    seeds: list[int],
    rows: pd.DataFrame,
    encoder: str,
    settings: Training,
    task: Task,
    out: Path,
) -> None:
    """The probabilities after the last step; averaged seeds have the seed -1."""

    def tables() -> Any:
        for seed, own in zip(seeds if len(scores) == len(seeds) else [-1], scores, strict=True):
            for fold, part in rows.groupby("fold", sort=True):
                number = int(str(fold))
                setting = Setting("postprocessed", encoder, "", settings.headline_alpha, seed)
                scored = Scored(setting, {number: own[part.index]})
                yield score_table(scored, number, part, task)

    write_batches(Postprocessing(out).scores, score_schema(task), tables(), 65536)
