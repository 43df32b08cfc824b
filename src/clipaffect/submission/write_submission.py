"""Write the trained heads' predictions for a test list, in the organisers' format.

The score of a frame is the mean probability of the heads over the seeds, after the post-processing
steps if there are any; the decision is that of the evaluation. A frame without a crop takes a score
by ``evaluation.missing`` (``leave_out`` is not possible, because every row must be there; it means
``nearest``). A person without any crop gets the training split's constant prediction.
``coverage.json`` counts each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipaffect.config.models import Missing
from clipaffect.core.errors import UserError
from clipaffect.core.files import whole_file, write_text
from clipaffect.core.frame_status import KEYS, FrameStatus
from clipaffect.core.layout import Submission
from clipaffect.core.metrics import decide
from clipaffect.core.parquet import read_arrow, read_table
from clipaffect.core.split_names import EVERYBODY, TRAIN
from clipaffect.core.tasks import Task
from clipaffect.dataset.test_list import submission_header
from clipaffect.dataset.tree import folder_name
from clipaffect.evaluation.fill_missing import PERSON, plan_scores
from clipaffect.evaluation.references import constant_scores
from clipaffect.features.build_table import folds_of, read_annotated
from clipaffect.postprocess.smoothing import sequences
from clipaffect.postprocess.steps import Rows, apply_steps
from clipaffect.submission.check_submission import check_submission
from clipaffect.submission.submitted_heads import ByName, SubmittedHeads
from clipaffect.training.history import probabilities
from clipaffect.training.mlp_head import evaluator


def write_submission(
    task: Task,
    heads: SubmittedHeads,
    missing: Missing,
    test: Path,
    embeddings: dict[str, list[Path]],
    table: Path,
    out: Path,
) -> None:
    """Write ``predictions.txt`` and ``coverage.json`` into the folder ``out``.

    Args:
        task: the task.
        heads: which heads predict, and the steps that follow.
        missing: ``evaluation.missing``.
        test: rows of ``dataset/test/<task>.parquet``.
        embeddings: every shard, of each encoder that the heads need.
        table: for the training split's constant prediction.
        out: a folder.

    Raises:
        UserError: a listed video of unknown length.
    """
    torch.set_num_threads(1)
    wanted = read_table(test)
    people = wanted[PERSON].drop_duplicates()
    whose = EVERYBODY if heads.trained_on == EVERYBODY else TRAIN
    rows, labels = read_annotated(table, task, whose, folds_of(table)[0])
    trained = labels[(rows["status"] == FrameStatus.OK).to_numpy()]
    own, *others = heads.by_features
    rows, known, scores = _score(embeddings[own], people, heads.by_features[own], task)
    beside = {}
    for name in others:
        of = _score(embeddings[name], people, heads.by_features[name], task)
        beside[name] = _of_the_same(*of[1:], known, heads.places(name), len(scores))
    at = Rows(np.zeros((len(known), 1), np.int8), sequences(known), task, beside)
    final = apply_steps(scores, heads.steps, at)[-1].mean(axis=0)
    if (wanted["frame"] == 0).any():
        wanted = _every_frame(wanted, rows, test)
    policy: Missing = "nearest" if missing == "leave_out" else missing
    plan = plan_scores(wanted, known, policy)
    answers = constant_scores(trained, len(wanted), task)
    answers[plan.kept] = plan.apply(final)
    with whole_file(Submission(out).predictions) as beside_file:
        _write(beside_file, wanted["location"], decide(answers, task), task)
    checked = check_submission(Submission(out).predictions, task)
    coverage: dict[str, Any] = {
        "task": task.name,
        **heads.said(),
        "missing": policy,
        "rows": checked.rows,
        "people": checked.people,
        "rows_with_own_crop": int(plan.own.sum()),
        "rows_filled": int((~plan.own).sum()),
        "rows_with_constant_answer": len(wanted) - len(plan.kept),
    }
    write_text(Submission(out).coverage, json.dumps(coverage, indent=2) + "\n")


def _score(
    embeddings: list[Path], people: pd.DataFrame, heads: ByName, task: Task
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """All rows of the listed people; those with a crop; their scores (heads, n, targets)."""
    every, known = [], [pd.DataFrame(columns=KEYS)]
    scores = [np.zeros((len(heads), 0, len(task.targets)), np.float32)]
    for shard in embeddings:
        rows = read_table(shard, [*KEYS, "status"])
        listed = rows.merge(people, on=PERSON, how="left", indicator=True)["_merge"] == "both"
        every.append(rows[listed.to_numpy()])
        usable = np.flatnonzero(listed.to_numpy() & (rows["status"] == FrameStatus.OK).to_numpy())
        if not len(usable):
            continue
        column = read_arrow(shard, ["feature"])["feature"].combine_chunks().take(usable)
        flat = column.flatten().to_numpy(zero_copy_only=False)
        # Arrow's memory may not be written to, which torch warns of.
        features = torch.from_numpy(flat.reshape(len(usable), -1).copy())
        at = np.arange(len(usable))
        each = [probabilities(evaluator(h), features, at, task) for h in heads.values()]
        known.append(rows.iloc[usable][KEYS])
        scores.append(np.stack(each))
    found = pd.concat(known[1:] or known, ignore_index=True)
    return pd.concat(every, ignore_index=True), found, np.concatenate(scores, axis=1)


def _of_the_same(
    rows: pd.DataFrame, scores: np.ndarray, wanted: pd.DataFrame, places: list[int], heads: int
) -> np.ndarray:
    """(heads, n, targets) scores of another encoder's heads; NaN for missing rows and seeds."""
    at = pd.MultiIndex.from_frame(rows).get_indexer(pd.MultiIndex.from_frame(wanted))
    found = np.full((heads, len(wanted), scores.shape[2]), np.nan, np.float32)
    for place, own in zip(places, scores, strict=True):
        if place >= 0:
            found[place, at >= 0] = own[at[at >= 0]]
    return found


def _every_frame(listed: pd.DataFrame, rows: pd.DataFrame, test: Path) -> pd.DataFrame:
    """One row for each frame of the listed people, in the list's order."""
    frames = rows[rows["frame"] > 0]
    parts = []
    for location, video, person, _ in listed.itertuples(index=False):
        own = frames[(frames["video"] == video) & (frames["person"] == person)]
        if own.empty:
            raise UserError(
                f"'{location}' has no frames: there are no crops and no readable video",
                where=test,
                fix="complete data.images or data.videos, or use the organisers' sample file, "
                "which lists its rows",
            )
        own = own.sort_values("frame")[KEYS]
        names = [f"{folder_name(video, person)}/{frame:05d}.jpg" for frame in own["frame"]]
        parts.append(own.assign(location=names))
    return pd.concat(parts, ignore_index=True)


def _write(path: Path, locations: pd.Series, decisions: np.ndarray, task: Task) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(submission_header(task) + "\n")
        for location, values in zip(locations, decisions.tolist(), strict=True):
            file.write(f"{location},{','.join(map(str, values))}\n")
