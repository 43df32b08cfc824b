"""Find the files to predict; each given file gets an outcome."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clipaffect.core.errors import UserError, raise_all
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.hashing import file_digest
from clipaffect.dataset.files import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    check_name,
    files_below,
    natural_order,
)
from clipaffect.dataset.manifest import MANIFEST, PICTURE, VIDEO
from clipaffect.faces.person_tracks import EVERYBODY
from clipaffect.prediction.prediction_table import People

IMAGES = "_images"  # folder of single images, which share one table
RESERVED = {"summary.csv", "columns.csv", "index.html", ".work", IMAGES, "_logs"}


@dataclass(frozen=True)
class Source:
    """A file.

    Attributes:
        name: its name in tables and its folder in the output: the path relative to the given
            folder.
        path: of the file.
        kind: ``video`` or ``picture``.
        outcome: ``ok``, or why it is skipped.
    """

    name: str
    path: Path
    kind: str
    outcome: FrameStatus = FrameStatus.OK


def find_sources(inputs: list[Path]) -> list[Source]:
    """All given files, and all files below given folders, in natural order.

    In folders, the suffix determines the kind of a file, and other files are skipped. A file that
    is given directly counts as a video whatever its name. Hidden files are ignored.

    Raises:
        UserError: a path does not exist, a folder is unreadable or empty, or two files would have
            the same name.
    """
    problems = [
        UserError("the file or folder does not exist", where=path, fix="correct the path")
        for path in inputs
        if not path.exists()
    ]
    raise_all(problems)
    found: list[Source] = []
    for path in inputs:
        if not path.is_dir():
            found.append(_source(path, path.parent, "", named=True))
            continue
        try:
            files = files_below(path)
        except OSError as error:
            raise UserError(
                f"the folder cannot be read: {error.strerror}",
                where=error.filename or path,
                fix="correct its permissions, or choose another folder",
            ) from None
        prefix = f"{path.resolve().name}/" if len(inputs) > 1 else ""
        found += [_source(file, path, prefix, named=False) for file in files]
    if not found:
        raise UserError(
            "no files were found",
            where=", ".join(map(str, inputs)) or "prediction.videos",
            fix="give a video, an image or a folder of them",
        )
    named: dict[str, list[Path]] = defaultdict(list)
    for source in found:
        named[source.name].append(source.path)
    for name, paths in named.items():
        if len({path.resolve() for path in paths}) > 1:
            raise UserError(
                f"{len(paths)} files would have the name '{name}'",
                where=" and ".join(map(str, paths)),
                fix="predict them in separate calls, each with its own --out",
            )
    for source in found:
        if source.outcome == FrameStatus.OK and source.name.partition("/")[0] in RESERVED:
            raise UserError(
                f"'{source.name}' is a reserved name in the output",
                where=source.path,
                fix="rename the file or folder",
            )
    unique = {source.name: source for source in found}
    return [unique[name] for name in sorted(unique, key=natural_order)]


def _source(path: Path, root: Path, prefix: str, named: bool) -> Source:
    suffix = path.suffix.lower()
    kind = PICTURE if suffix in IMAGE_SUFFIXES else VIDEO
    name = prefix + path.relative_to(root).as_posix()
    # The path stands in tables too, and its folders need not be text.
    if check_name(path, root) is not None or not (name + str(path)).isprintable():
        shown = name.encode("utf-8", "surrogateescape").decode("ascii", "backslashreplace")
        printable = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)
        return Source(printable, path, kind, FrameStatus.BAD_NAME)
    # Opening a pipe would wait for somebody to write.
    if not path.is_file() or (not named and suffix not in VIDEO_SUFFIXES | IMAGE_SUFFIXES):
        return Source(name, path, kind, FrameStatus.NOT_MEDIA)
    if not os.access(path, os.R_OK, effective_ids=True):
        return Source(name, path, kind, FrameStatus.NO_PERMISSION)
    return Source(name, path, kind)


def manifest(sources: list[Source], people: People) -> pd.DataFrame:
    """Rows of ``dataset.manifest.MANIFEST``, as read by the stages of the pipeline."""
    persons = [EVERYBODY if people == "all" else ""]
    rows: list[dict[str, Any]] = [
        {
            "video": source.name,
            "kind": source.kind,
            "path": str(source.path),
            "sha256": file_digest(source.path),
            "persons": persons,
            "folders": [""],
            "folder_states": [""],
            "frame_limit": 0,
        }
        for source in sources
    ]
    return pd.DataFrame(rows, columns=MANIFEST.names)
