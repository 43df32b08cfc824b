"""Turn rows of faces and their features into rows of predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from clipaffect.bundle.format import Bundle, TaskModel
from clipaffect.bundle.load import OpenBundle, load_heads, load_statistics
from clipaffect.bundle.prediction_columns import FRAME_COLUMNS, MODEL_COLUMN, columns, table_schema
from clipaffect.core.errors import UserError
from clipaffect.core.files import reading
from clipaffect.core.frame_status import KEYS, FrameStatus
from clipaffect.core.parquet import ROW_GROUP, open_parquet, read_table
from clipaffect.prediction.scoring import Answers, ByFeatures, answer_tasks, head_scores

People = Literal["all", "main"]
GROUPS_AT_ONCE = 32  # row groups in memory
FINGERPRINT = 12  # digits of the bundle's sha256 that a row carries
# Which columns of the faces' table become one column each of the predictions.
UNPACKED = {
    "box": ["box_left", "box_top", "box_width", "box_height"],
    "points": [c.name for c in FRAME_COLUMNS if c.name.endswith(("_x", "_y"))],
}
RENAMED = {"score": "face_score"}


@dataclass(frozen=True)
class Predicted:
    """The predictions for all rows of a face table.

    Attributes:
        opened: the bundle that was used.
        people: the people with predictions.
        faces: the table of faces.
        rows: video, person, frame, time and status of its rows.
        at: (rows,) which answer a row has; -1: none, there is no face.
        answers: by task.
        distance: (answers,) distance from the training data, or None if the bundle cannot tell.
    """

    opened: OpenBundle
    people: People
    faces: Path
    rows: pd.DataFrame
    at: np.ndarray
    answers: dict[str, Answers]
    distance: np.ndarray | None = None

    @property
    def bundle(self) -> Bundle:
        """The bundle that was used."""
        return self.opened.bundle

    @cached_property
    def person(self) -> np.ndarray:
        """(rows,) numbers of people, from 1; 0 if no person is named."""
        return person_numbers(self.rows, self.people)

    def of_rows(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Values (answers, ...) float32 for some rows; NaN for rows without a prediction."""
        at = self.at[rows]
        found = np.full((len(rows), *values.shape[1:]), np.nan, np.float32)
        found[at >= 0] = values[at[at >= 0]]
        return found

    def tables(self, start: int, stop: int, heads: bool) -> Iterator[pa.Table]:
        """The predictions of a stretch of rows, a few row groups at a time."""
        schema = table_schema(columns(self.bundle, heads))
        names = [
            "video",
            "frame",
            "time",
            "status",
            "faces_in_frame",
            "score",
            "box",
            "points",
            "eye_distance",
            "yaw",
            "pitch",
            "roll",
            "visible",
            "sharpness",
        ]
        for first, part in stretches(self.faces, start, stop, names):
            rows = np.arange(first, first + part.num_rows)
            found = _unpacked(part)
            person = self.person[rows]
            found["person"] = pa.array(person, pa.int32(), mask=person == 0)
            time = self.rows["time"].to_numpy(float)[rows]
            found["time"] = pa.array(time, mask=np.isnan(time))
            found["status"] = pa.array(self.rows["status"].iloc[rows].astype(str), pa.string())
            if self.distance is not None:
                found |= distance_columns(self.of_rows(self.distance, rows))
            for name, model in self.bundle.tasks.items():
                own = self.answers[name]
                found |= answer_columns(name, model, own, self.at[rows], heads)
            mark = self.opened.fingerprint[:FINGERPRINT]
            found[MODEL_COLUMN.name] = pa.array([mark] * len(rows), pa.string())
            yield pa.table([found[name] for name in schema.names], schema=schema)


def distance_columns(distance: np.ndarray) -> dict[str, pa.Array]:
    """Columns of the distance (n,) from the training data; NaN where there is no face."""
    none = np.isnan(distance)
    return {
        "distance": pa.array(distance, pa.float32(), mask=none),
        "far": pa.array(distance > 1, mask=none),
    }


def answer_columns(
    name: str, model: TaskModel, own: Answers, at: np.ndarray, heads: bool
) -> dict[str, pa.Array]:
    """Columns of one task for some rows; ``at`` is the prediction of each row (-1: none)."""
    none, at = at < 0, np.maximum(at, 0)
    if not len(own.decision):  # nobody anywhere: every value is masked
        own = _blank(own)
    found: dict[str, pa.Array] = {}
    if not model.multilabel:
        index = pa.array(own.decision[at, 0].astype(np.int16), mask=none)
        found[name] = pa.DictionaryArray.from_arrays(index, pa.array(model.targets))
    for k, target in enumerate(model.targets):
        column = f"{name}_{target}"
        found[column] = pa.array(own.probability[at, k], pa.float32(), mask=none)
        spread = own.spread[at, k]
        found[f"{column}_spread"] = pa.array(spread, pa.float32(), mask=none | np.isnan(spread))
        if model.multilabel:
            shown = own.decision[at, k].astype(bool)
            found[f"{column}_shown"] = pa.array(shown, mask=none)
            limit = np.full(len(at), own.threshold[k], np.float32)
            found[f"{column}_threshold"] = pa.array(limit, mask=none)
        if heads:
            for number, seed in enumerate(model.heads[0].seeds):
                values = own.heads[number, at, k]
                found[f"{column}_seed{seed}"] = pa.array(values, pa.float32(), mask=none)
    return found


def _blank(answers: Answers) -> Answers:
    def one(values: np.ndarray, axis: int = 0) -> np.ndarray:
        return np.concatenate(
            [
                values,
                np.zeros_like(values, shape=(*values.shape[:axis], 1, *values.shape[axis + 1 :])),
            ],
            axis=axis,
        )

    return Answers(
        one(answers.probability),
        one(answers.decision),
        answers.threshold,
        one(answers.spread),
        one(answers.final),
        one(answers.heads, axis=1),
    )


def person_numbers(rows: pd.DataFrame, people: People) -> np.ndarray:
    """(rows,) int32 numbers of people; 0 if no person is named.

    With ``all``, the number is the person's name; with ``main``, all frames belong to one person.
    """
    if people == "main":
        return (rows["frame"] > 0).to_numpy().astype(np.int32)
    return np.array([int(name) if name else 0 for name in rows["person"]], np.int32)


def _unpacked(part: pa.Table) -> dict[str, pa.Array]:
    """Convert columns of faces to columns of predictions."""
    found: dict[str, pa.Array] = {}
    part = part.combine_chunks()
    for name in part.column_names:
        column = part[name].combine_chunks() if part.num_rows else pa.array([], part[name].type)
        if name not in UNPACKED:
            found[RENAMED.get(name, name)] = column
            continue
        none = column.is_null().to_numpy(zero_copy_only=False)
        values = np.zeros((len(column), column.type.list_size), np.float32)
        values[~none] = column.drop_null().flatten().to_numpy().reshape(-1, values.shape[1])
        for k, own in enumerate(UNPACKED[name]):
            found[own] = pa.array(values[:, k], pa.float32(), mask=none)
    return found


def stretches(
    path: Path, start: int, stop: int, names: list[str]
) -> Iterator[tuple[int, pa.Table]]:
    """Rows ``start`` to ``stop`` of a file written with ``ROW_GROUP``, in parts with a start."""
    with open_parquet(path) as file:
        for at in range(start - start % ROW_GROUP, stop, GROUPS_AT_ONCE * ROW_GROUP):
            end = min(at + GROUPS_AT_ONCE * ROW_GROUP, stop)
            groups = range(at // ROW_GROUP, -(-end // ROW_GROUP))
            with reading(path):
                table = file.read_row_groups(list(groups), columns=names)
            first = max(at, start)
            yield first, table.slice(first - at, end - first)


def predict_rows(
    opened: OpenBundle, faces: Path, features: dict[str, Path], people: People
) -> Predicted:
    """Predict all rows of a face table.

    Args:
        opened: the bundle.
        faces: rows of ``faces.rows.SCHEMA``.
        features: by name in the bundle, the features of those rows, in their order.
        people: who was looked for.

    Raises:
        UserError: the heads need features of another length.
    """
    torch.set_num_threads(1)
    rows = read_table(faces, [*KEYS, "time", "status"])
    # As in the evaluation: a frame is answered where the heads' own features have seen a face.
    own = opened.bundle.own_features
    rows["status"] = read_table(features[own], ["status"])["status"]
    known = np.flatnonzero((rows["status"] == FrameStatus.OK).to_numpy())
    at = np.full(len(rows), -1)
    at[known] = np.arange(len(known))
    heads = {name: load_heads(opened, name) for name in opened.bundle.tasks}
    scores, distance = _scores(opened, heads, features, len(rows), at)
    of_faces = rows.iloc[known].reset_index(drop=True)
    answers = answer_tasks(opened.bundle, heads, scores, of_faces)
    return Predicted(opened, people, faces, rows, at, answers, distance)


def _scores(
    opened: OpenBundle,
    heads: dict[str, ByFeatures],
    features: dict[str, Path],
    count: int,
    at: np.ndarray,
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray | None]:
    """The heads' scores by task and features, with a few row groups of features in memory.

    With them (answers,) distances from the training data, if the bundle has its statistics.
    """
    tasks, statistics = opened.bundle.tasks, load_statistics(opened)
    distances = [np.zeros(0, np.float32)]
    parts: dict[tuple[str, str], list[np.ndarray]] = {
        (task, name): [] for task, own in heads.items() for name in own
    }
    for name in {name for _, name in parts}:
        for first, table in stretches(features[name], 0, count, ["feature"]):
            usable = np.flatnonzero(at[first : first + table.num_rows] >= 0)
            values = torch.from_numpy(_features(table, usable))
            if statistics is not None and name == opened.bundle.own_features:
                distances.append(statistics.distance(values))
            for (task, own), found in parts.items():
                if own == name:
                    _check_length(tasks[task].heads, name, values.shape[1])
                    found.append(head_scores(values, heads[task][name], tasks[task], name))
    result: dict[str, dict[str, np.ndarray]] = {task: {} for task in heads}
    for (task, name), found in parts.items():
        empty = np.zeros((len(heads[task][name]), 0, len(tasks[task].targets)), np.float32)
        result[task][name] = np.concatenate([empty, *found], axis=1)
    return result, None if statistics is None else np.concatenate(distances)


def _check_length(heads: tuple, features: str, length: int) -> None:
    wanted = next(own.inputs for own in heads if own.features == features)
    if wanted != length:
        raise UserError(
            f"the heads need features of length {wanted}, but '{features}' gives {length}",
            where="bundle.json",
            fix="use the encoder that the bundle was made for",
        )


def _features(table: pa.Table, usable: np.ndarray) -> np.ndarray:
    """(n, d) float16 of the rows with a face; NaN for rows without these features."""
    length = table.schema.field("feature").type.list_size
    found = np.full((len(usable), length), np.nan, np.float16)
    column = pa.chunked_array(table["feature"].chunks, table["feature"].type).combine_chunks()
    column = column.take(pa.array(usable))
    there = np.asarray(column.is_valid())
    values = column.drop_null().flatten().to_numpy(zero_copy_only=False)
    found[there] = values.reshape(-1, length)
    return found
