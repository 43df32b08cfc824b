"""Read a table of another system's predictions, by a small file that names its columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from clipaffect.config.section import Section, explain
from clipaffect.core.errors import UserError, first_line
from clipaffect.core.tasks import Task
from clipaffect.dataset.csv_cells import PARQUET, column_names, csv_rows, read_cells
from clipaffect.dataset.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES

SUM = 0.01  # by which probabilities of classes may differ from one
NOTHING = -2  # no prediction: no class, and no label's bit
FEW = 5
Where = Callable[[int], str]


class PeerColumns(Section):
    """Which columns hold what. Class and label names are those of the run."""

    name: str = Field("the other system", description="What the page calls it.")
    task: str = Field(description="A task of the run, such as EXPR.")
    video: str | None = Field(
        None, description="Column of the video's name or path; without it, the table's own name."
    )
    frame: str = Field("frame", description="Column of the frame number.")
    first_frame: int | None = Field(
        None, ge=0, le=1, description="Number of the first frame; by default detected."
    )
    person: str | None = Field(None, description="Column of the person or face.")
    sides: dict[str, str] = Field(
        default_factory=dict,
        description="For two people in a video: `left` and `right`, and their values of `person`.",
    )
    prefer: str | None = Field(
        None, description="Of several faces in a frame, the one with the largest value is taken."
    )
    found: str | None = Field(None, description="Column that is 0 where there was no face.")
    label: str | None = Field(None, description="Column of the predicted class.")
    names: dict[str, str] = Field(
        default_factory=dict, description="Classes of the run, by their names in `label`."
    )
    probabilities: dict[str, str] = Field(
        default_factory=dict, description="Columns of the probabilities, by class or label."
    )
    scores: dict[str, str] = Field(
        default_factory=dict, description="Columns of any other scores: the largest decides."
    )
    present: dict[str, str] = Field(
        default_factory=dict, description="For labels: columns of 0 and 1, by label."
    )
    threshold: float = Field(0.5, description="From which a label's probability is present.")

    @field_validator("sides", "names", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """Numbers, such as those of faces, are compared as text."""
        if not isinstance(value, dict):
            return value
        return {str(key): str(own) for key, own in value.items()}

    @model_validator(mode="after")
    def _one_kind(self) -> PeerColumns:
        kinds = ("label", "probabilities", "scores", "present")
        if sum(bool(getattr(self, kind)) for kind in kinds) != 1:
            raise ValueError(f"give exactly one of {', '.join(kinds)}")
        return self

    def targets(self, task: Task) -> list[str]:
        """The classes or labels that the system can predict, in the task's order.

        Raises:
            ValueError: a name that is no class or label of the task, or the wrong kind of columns.
        """
        named = self.probabilities or self.scores or self.present
        known = set(named) if named else set(self.names.values())
        if unknown := sorted(known - set(task.targets)):
            raise ValueError(
                f"'{unknown[0]}' is no class or label of {task.name}: {', '.join(task.targets)}"
            )
        if task.multilabel and (self.label or self.scores):
            raise ValueError(f"{task.name} has labels: give 'present' or 'probabilities'")
        if not task.multilabel and self.present:
            raise ValueError(f"{task.name} has classes: give 'label', 'probabilities' or 'scores'")
        return [target for target in task.targets if target in known]


@dataclass(frozen=True)
class PeerPredictions:
    """Another system's decisions.

    Attributes:
        rows: columns video (a path without suffix), side and frame (as in the table).
        decisions: (n, 1) classes or (n, targets) bits; ``NOTHING`` where there is none.
        notes: sentences for the reader.
    """

    rows: pd.DataFrame
    decisions: np.ndarray
    notes: list[str]


def read_peer_columns(path: Path) -> PeerColumns:
    """Read the file that names the columns.

    Raises:
        UserError: it is missing or wrong.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return PeerColumns.model_validate(values)
    except ValidationError as error:
        what = explain(error, PeerColumns)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = first_line(error)
    raise UserError(what, where=path, fix="see docs/comparison.md and config/peers/")


def read_peer(path: Path, columns: PeerColumns, task: Task) -> PeerPredictions:
    """Read a table, or all CSV and Parquet files of a folder, one for each video.

    Raises:
        UserError: a column is missing, or a cell is wrong.
    """
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".csv", *PARQUET))
    if not files or not files[0].is_file():
        raise UserError(
            "there is no table", where=path, fix="give a CSV or Parquet file, or a folder of them"
        )
    empty = [file for file in files if len(files) > 1 and _is_empty(file)]
    parts = [_read_file(file, columns, task) for file in files if file not in empty]
    if not parts:
        raise UserError("all tables are empty", where=path, fix="complete them")
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    decisions = np.concatenate([part.decisions for part in parts])
    found = decisions[:, 0] != NOTHING
    notes = [f"{len(empty):,} tables have no row."] if empty else []
    if lost := int((~found).sum()):
        notes.append(f"{lost:,} rows of the table say that there is no face.")
    order = pd.Series(rows.pop("prefer")).to_numpy()
    # Of several faces the preferred one; rows without a face last.
    by = np.lexsort((-order, ~found))
    rows, decisions = rows.iloc[by].reset_index(drop=True), decisions[by]
    twice = rows.duplicated(["video", "side", "frame"]).to_numpy()
    if twice.any():
        how = f"largest {columns.prefer}" if columns.prefer else "first one"
        notes.append(f"{int(twice.sum()):,} rows are further faces of a frame: the {how} is taken.")
    return PeerPredictions(rows[~twice].reset_index(drop=True), decisions[~twice], notes)


def _is_empty(path: Path) -> bool:
    """Whether a CSV file has nothing but a header."""
    return path.suffix.lower() not in PARQUET and sum(1 for _ in csv_rows(path)) < 2


def _read_file(path: Path, columns: PeerColumns, task: Task) -> PeerPredictions:
    named = columns.probabilities or columns.scores or columns.present
    single = (columns.video, columns.frame, columns.person, columns.prefer, columns.found)
    wanted = {name for name in (*single, columns.label, *named.values()) if name}
    header = column_names(path)
    if missing := sorted(wanted - {name.strip() for name in header}):
        raise UserError(
            f"there is no column '{missing[0]}'; the columns are {', '.join(header)[:300]}",
            where=f"{path}, the header",
            fix="correct the file that names the columns",
        )
    cells, where = read_cells(path, header, wanted)
    cells = cells.apply(lambda column: column.str.strip())
    videos = cells[columns.video] if columns.video else pd.Series(path.name, index=cells.index)
    sides = pd.Series("", index=cells.index)
    if columns.person:
        back = {value: side for side, value in columns.sides.items()}
        sides = cells[columns.person].map(lambda value: back.get(value, ""))
    frames = _numbers(cells[columns.frame], where, columns.frame)
    whole = np.isfinite(frames) & (frames % 1 == 0)
    if not whole.all():
        at = int(np.flatnonzero(~whole)[0])
        raise UserError(
            f"'{cells[columns.frame].iloc[at]}' is not a frame number",
            where=where(at),
            fix="give whole numbers in the column of the frame",
        )
    rows = pd.DataFrame(
        {
            "video": videos.map(plain_name),
            "side": sides,
            "frame": frames.astype(np.int64),
            "prefer": _numbers(cells[columns.prefer], where, columns.prefer)
            if columns.prefer
            else 0.0,
        }
    )
    decisions = _decisions(cells, columns, task, where)
    if columns.found:
        decisions[_numbers(cells[columns.found], where, columns.found) == 0] = NOTHING
    return PeerPredictions(rows, decisions, [])


def plain_name(name: str) -> str:
    """The path of a video or image without its suffix."""
    path = PurePosixPath(name.replace("\\", "/"))
    known = path.suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, ".csv", *PARQUET)
    return str(path.with_suffix("") if known else path)


def _numbers(cells: pd.Series, where: Where, name: str) -> np.ndarray:
    """Cells as numbers; NaN for empty cells and for 'nan'."""
    found = pd.to_numeric(cells.replace("", "nan"), errors="coerce").to_numpy(float)
    wrong = np.isnan(found) & ~cells.str.lower().isin(["", "nan", "none", "null"]).to_numpy()
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"'{cells.iloc[at]}' in the column '{name}' is not a number",
            where=where(at),
            fix="correct the cell, or name another column",
        )
    return found


def _decisions(cells: pd.DataFrame, columns: PeerColumns, task: Task, where: Where) -> np.ndarray:
    """(n, 1) classes or (n, targets) bits, ``NOTHING`` where a cell is empty."""
    targets = list(task.targets)
    if columns.label:
        said = cells[columns.label].map(lambda name: columns.names.get(name, name))
        empty = said.str.lower().isin(["", "nan", "none", "null"])
        code = pd.Index(targets).get_indexer(said)
        if (wrong := (code < 0) & ~empty.to_numpy()).any():
            at = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"'{said.iloc[at]}' is no class of {task.name}: {', '.join(targets)}",
                where=where(at),
                fix="give the run's name for it under 'names'",
            )
        return np.where(code < 0, NOTHING, code)[:, None]
    named = columns.probabilities or columns.scores or columns.present
    own = [target for target in targets if target in named]
    values = np.stack([_numbers(cells[named[t]], where, named[t]) for t in own], axis=1)
    known = ~np.isnan(values).any(axis=1)
    if task.multilabel:
        limit = columns.threshold if columns.probabilities else 0.5
        bits = np.zeros((len(cells), len(targets)), np.int64)
        bits[:, [targets.index(t) for t in own]] = np.nan_to_num(values) >= limit
        bits[~known] = NOTHING
        return bits
    if columns.probabilities:
        apart = np.abs(np.nan_to_num(values).sum(axis=1) - 1) > SUM
        if (wrong := apart & known).any():
            at = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"the probabilities of {int(wrong.sum()):,} rows do not sum to one: the first has "
                f"{values[at].sum():.3f}",
                where=where(at),
                fix="name the columns of all classes, or give them under 'scores' (the largest "
                "decides)",
            )
    place = np.array([targets.index(t) for t in own])
    best = place[np.nan_to_num(values, nan=-np.inf).argmax(axis=1)]
    return np.where(known, best, NOTHING)[:, None]
