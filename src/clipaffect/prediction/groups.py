"""A table of the user's own, with a row for each file: conditions, subjects, sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clipaffect.core.errors import UserError
from clipaffect.dataset.csv_cells import column_names, read_cells

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
        found = [self.rows.get(_plain(file), empty) for file in files]
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
    names = [name.strip() for name in column_names(path)]
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
    known = {_plain(file) for file in files}
    rows: dict[str, list[str]] = {}
    missing = []
    for at, row in enumerate(cells.to_dict("records")):
        name = _plain(row["file"])
        if name in rows:
            raise UserError(
                f"the file '{row['file']}' has two rows",
                where=where(at),
                fix="keep one row for each file",
            )
        rows[name] = [row[column] for column in columns]
        if name not in known:
            missing.append(row["file"])
    if missing:
        raise UserError(
            f"{len(missing)} of {len(rows)} files in the table are not among the files to predict, "
            f"such as {', '.join(missing[:FEW])}",
            where=path,
            fix="correct the names (as in the column 'file' of summary.csv), or remove the rows",
        )
    return Groups(path, columns, rows)


def _plain(file: str) -> str:
    """A file's name without the suffix."""
    return str(PurePosixPath(file).with_suffix("")) if file else file
