"""``data.people``: a table of who is in which video, for data that does not say so itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from clipaffect.core.errors import UserError
from clipaffect.dataset.csv_cells import column_names, read_cells
from clipaffect.dataset.files import natural_order
from clipaffect.dataset.groups import group_names, joins_people, people_in
from clipaffect.dataset.label_rows import FoundData
from clipaffect.dataset.media import VIDEO_SUFFIXES
from clipaffect.dataset.tree import folder_name

COLUMNS = ("video", "side", "person")
FEW = 5


def read_people(path: Path) -> pd.DataFrame:
    """Columns name (of a video, with its side) and person of a table, without repeated rows.

    Raises:
        UserError: a column or a cell is missing.
    """
    if not path.is_file():
        raise UserError(
            "the table does not exist",
            where=f"{path} (data.people), relative to {Path.cwd()}",
            fix="set it to a CSV or Parquet file with the columns video and person",
        )
    names = column_names(path)
    for column in ("video", "person"):
        if column not in [name.strip() for name in names]:
            raise UserError(
                f"there is no column '{column}'; the columns are {', '.join(names)[:300]}",
                where=f"{path}, the header (data.people)",
                fix="name the columns video, person and, for two people in one video, side",
            )
    cells, where = read_cells(path, names, set(COLUMNS))
    cells = cells.apply(lambda column: column.str.strip())
    empty = (cells["video"] == "") | (cells["person"] == "")
    if wrong := np.flatnonzero(empty).tolist():
        raise UserError(
            "the row names no video or no person",
            where=where(wrong[0]),
            fix="complete the row, or remove it if the person is unknown",
        )
    sides = cells["side"] if "side" in cells else pd.Series("", index=cells.index)
    name = [folder_name(*pair) for pair in zip(cells["video"], sides, strict=True)]
    return pd.DataFrame({"name": name, "person": cells["person"]}).drop_duplicates()


def name_people(found: FoundData, path: Path) -> FoundData:
    """The data with its groups joined by a table of people.

    A video (or a person in it) that the table does not name stays a group of its own.

    Raises:
        UserError: the table is wrong, or does not say which of two people in a video it means.
    """
    listed = read_people(path)
    owners = pd.concat(
        [rows[["group", "video", "person"]].drop_duplicates() for rows in found.labels.values()]
    )
    owners = owners.astype(str).drop_duplicates()
    owners["name"] = [
        folder_name(*pair) for pair in zip(owners["video"], owners["person"], strict=True)
    ]
    known = dict(zip(owners["name"], owners["name"], strict=True))
    for video, person, name in owners[["video", "person", "name"]].itertuples(index=False):
        known.setdefault(folder_name(_stem(video), person), name)
    names = listed["name"].map(lambda name: known.get(name, known.get(_stem(name), "")))
    sides = set(owners["video"][owners["person"] != ""].map(_stem))
    if vague := sorted(sides.intersection(listed["name"][names == ""].map(_stem))):
        raise UserError(
            f"two people are annotated in '{vague[0]}', and the table does not say whom it means",
            where=f"{path} (data.people)",
            fix=f"name the video {vague[0]}_left or {vague[0]}_right, or add a column 'side'",
        )
    table = listed.assign(name=names)[names != ""].merge(
        owners[["name", "video", "group"]], on="name"
    )
    unnamed = owners[~owners["name"].isin(table["name"])]
    edges = pd.concat([table[["group", "person"]], owners[["group"]].assign(person="")])
    joined = group_names(edges["group"].tolist(), edges["person"].tolist())
    group_of = dict(zip(edges["group"], joined, strict=True))
    labels = {
        name: rows.assign(group=_renamed(rows["group"], group_of))
        for name, rows in found.labels.items()
    }
    named = None if len(unnamed) else people_in(table["name"], table["person"])
    people, videos = table["person"].nunique(), table["video"].nunique()
    note = f"{path} names {people:,} people in {videos:,} videos."
    if len(unnamed):
        note += (
            f" It does not name {len(unnamed):,} of {len(owners):,} that are annotated, such as "
            f"{', '.join(sorted(unnamed['name'], key=natural_order)[:FEW])}: each counts as a "
            "different person."
        )
    if unused := int((names == "").sum()):
        note += f" {unused:,} of its rows name a video without annotations."
    tree = replace(
        found.tree,
        named=named,
        names_some=named is None and not table.empty,
        joins_people=joins_people(joined, edges["person"]),
        notes=(*found.tree.notes, note),
    )
    return FoundData(tree, labels, found.where)


def _stem(name: str) -> str:
    """A video's name without the suffix of a video file."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in VIDEO_SUFFIXES else name


def _renamed(groups: pd.Series, names: dict[str, str]) -> pd.Categorical:
    order = sorted(set(names.values()), key=natural_order)
    return pd.Categorical(groups.astype(str).map(names), order)
