"""A table of the user's own, with a row for each file: conditions, subjects, sessions."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from clipaffect.core.errors import UserError
from clipaffect.core.names import composed
from clipaffect.dataset.csv_cells import column_names, read_cells
from clipaffect.dataset.media import without_suffix

FEW = 5


@dataclass(frozen=True)
class Groups:
    """Further columns for each file.

    Attributes:
        path: the table.
        columns: their names.
        rows: the values by file name.
    """

    path: Path
    columns: list[str]
    rows: dict[str, list[str]]

    def __str__(self) -> str:
        return self.path.name

    def of(self, files: list[str]) -> dict[str, list[str | None]]:
        """The values of some files, by column; None where the table has no row."""
        empty: list[str | None] = [None] * len(self.columns)
        found = [self.rows.get(file, empty) for file in files]
        return {name: [row[k] for row in found] for k, name in enumerate(self.columns)}


def read_groups(path: Path, files: list[str], taken: list[str]) -> Groups:
    """Read a table whose column ``file`` names files, with or without their suffix.

    Args:
        path: a CSV or Parquet file.
        files: the names of the files that are predicted.
        taken: names of columns that the predictions have already.

    Raises:
        UserError: no such column, a name that is taken, a file that is named twice, or one that is
            not predicted.
    """
    if not path.is_file():
        raise UserError("the table does not exist", where=path, fix="correct the path of --groups")
    names = [name.strip() for name in column_names(path) if name.strip()]
    if "file" not in names:
        raise UserError(
            f"there is no column 'file'; the columns are {', '.join(names)[:300]}",
            where=f"{path}, the header",
            fix="name the column that holds the names of the files 'file'",
        )
    columns = [name for name in names if name != "file"]
    if clash := sorted(set(columns) & set(taken)):
        raise UserError(
            f"the predictions already have a column '{clash[0]}'",
            where=f"{path}, the header",
            fix="rename the column",
        )
    cells, where = read_cells(path, column_names(path), set(names))
    cells = cells.apply(lambda column: column.str.strip())
    exact = {composed(file): file for file in files}
    without: dict[str, list[str]] = defaultdict(list)
    for file in files:
        without[without_suffix(composed(file))].append(file)
    rows: dict[str, list[str]] = {}
    missing = []
    for at, row in enumerate(cells.to_dict("records")):
        name = composed(row["file"])
        found = [exact[name]] if name in exact else without.get(name, [])
        if len(found) > 1:
            raise UserError(
                f"'{row['file']}' may be {' or '.join(found[:FEW])}",
                where=where(at),
                fix="write the name with its suffix",
            )
        if not found:
            missing.append(row["file"])
            continue
        if found[0] in rows:
            raise UserError(
                f"the file '{row['file']}' has two rows",
                where=where(at),
                fix="keep one row for each file",
            )
        rows[found[0]] = [row[column] for column in columns]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(cells)} files in the table are not among the files to "
            f"predict, such as {', '.join(missing[:FEW])}",
            where=path,
            fix="correct the names (as in the column 'file' of summary.csv), or remove the rows",
        )
    return Groups(path, columns, rows)
