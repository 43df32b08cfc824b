"""Write the trained heads' predictions for a test list, in the organisers' format.

The score of a frame is the mean probability of the headline alpha's heads over the seeds; the
decision is evaluation's. A frame without a crop takes a score by ``evaluation.missing``
(``leave_out`` cannot be: every row must be there, so it means ``nearest``); a person without any
crop gets the training split's constant answer. ``coverage.json`` counts each.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from clipaffect.config.models import Missing
from clipaffect.config.training import Training
from clipaffect.core.errors import UserError
from clipaffect.core.files import whole_file, write_text
from clipaffect.core.frame_status import KEYS, FrameStatus
from clipaffect.core.layout import Submission
from clipaffect.core.metrics import decide
from clipaffect.core.parquet import read_arrow, read_table
from clipaffect.core.split_names import TRAIN
from clipaffect.core.tasks import Task
from clipaffect.dataset.test_list import submission_header
from clipaffect.dataset.tree import folder_name
from clipaffect.evaluation.fill_missing import PERSON, plan_scores
from clipaffect.evaluation.references import constant_scores
from clipaffect.features.build_table import feature_dimension, folds_of, read_annotated
from clipaffect.submission.check_submission import check_submission
from clipaffect.training.history import probabilities
from clipaffect.training.mlp_head import evaluator
from clipaffect.training.train_heads import finished_heads, load_head


def write_submission(
    task: Task,
    settings: Training,
    missing: Missing,
    test: Path,
    embeddings: list[Path],
    folders: list[Path],
    table: Path,
    out: Path,
    variant: str = "",
) -> None:
    """Write ``predictions.txt`` and ``coverage.json`` into the folder ``out``.

    Args:
        task: the task.
        settings: the ``training`` section.
        missing: ``evaluation.missing``.
        test: rows of ``dataset/test/<task>.parquet``.
        embeddings: every shard of the encoder that the heads were trained on.
        folders: of the heads, one for each part of the grid.
        table: for the training split's constant answer.
        out: a folder.
        variant: whose heads at the headline's alpha (or without one) answer.

    Raises:
        UserError: no head of the headline alpha has finished, or a listed video of unknown length.
    """
    torch.set_num_threads(1)
    wanted = read_table(test)
    people = wanted[PERSON].drop_duplicates()
    rows, labels = read_annotated(table, task, TRAIN, folds_of(table)[0])
    trained = labels[(rows["status"] == FrameStatus.OK).to_numpy()]
    heads = _headline_heads(folders, task, settings, feature_dimension(table), variant)
    rows, known, scores = _score(embeddings, people, heads, task)
    if (wanted["frame"] == 0).any():
        wanted = _every_frame(wanted, rows, test)
    policy: Missing = "nearest" if missing == "leave_out" else missing
    plan = plan_scores(wanted, known, policy)
    answers = constant_scores(trained, len(wanted), task)
    answers[plan.kept] = plan.apply(scores)
    with whole_file(Submission(out).predictions) as beside:
        _write(beside, wanted["location"], decide(answers, task), task)
    checked = check_submission(Submission(out).predictions, task)
    coverage = {
        "task": task.name,
        "alpha": settings.headline_alpha,
        "heads": sorted(heads),
        "missing": policy,
        "rows": checked.rows,
        "people": checked.people,
        "rows_with_own_crop": int(plan.own.sum()),
        "rows_filled": int((~plan.own).sum()),
        "rows_with_constant_answer": len(wanted) - len(plan.kept),
    }
    write_text(Submission(out).coverage, json.dumps(coverage, indent=2) + "\n")


def _headline_heads(
    folders: list[Path], task: Task, settings: Training, inputs: int, variant: str
) -> dict[str, nn.Module]:
    listed = finished_heads(folders)
    level = listed["alpha"].isin([settings.headline_alpha]) | listed["alpha"].isna()
    chosen = (listed["variant"] == variant) & level
    rows = listed[chosen & (listed["status"] == "ok")]
    found = {str(row["head"]): load_head(row, task, settings, inputs) for _, row in rows.iterrows()}
    if not found:
        raise UserError(
            f"no head of {task.name} at alpha = {settings.headline_alpha:g} finished training",
            where="training.headline_alpha",
            fix="check the status of the heads in the report, and choose another alpha",
        )
    return found


def _score(
    embeddings: list[Path], people: pd.DataFrame, heads: dict[str, nn.Module], task: Task
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """All rows of the listed people; those with a crop, and their scores (n, targets)."""
    every, known, scores = [], [], []
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
        each = [probabilities(evaluator(h), features, at, task) for _, h in sorted(heads.items())]
        known.append(rows.iloc[usable][KEYS])
        scores.append(np.mean(each, axis=0))
    if not known:
        return pd.concat(every), pd.DataFrame(columns=KEYS), np.zeros((0, len(task.targets)))
    return (
        pd.concat(every, ignore_index=True),
        pd.concat(known, ignore_index=True),
        np.concatenate(scores),
    )


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
