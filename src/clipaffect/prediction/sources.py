"""Find the files to predict; each given file gets an outcome."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from clipaffect.core.errors import UserError, raise_all
from clipaffect.core.files import write_text
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.hashing import digest, file_digest
from clipaffect.core.layout import Predictions
from clipaffect.core.names import LONGEST, composed, path_text, shown_name
from clipaffect.dataset.files import natural_order, walk_once
from clipaffect.dataset.manifest import MANIFEST, VIDEO
from clipaffect.dataset.media import is_pointer, media_kind, suffix_kind, without_suffix
from clipaffect.faces.person_tracks import EVERYBODY
from clipaffect.prediction.prediction_table import People

IMAGES = "_images"  # folder of single images, which share one table
NOTES = ".files.json"  # which name and folder each file has had in this output
EARLIER_NOTES = ".names.json"
RESERVED = {
    *(path.name for path in Predictions(Path()).files().values()),
    ".work",
    IMAGES,
    "_logs",
    NOTES,
    EARLIER_NOTES,
}


@dataclass(frozen=True)
class Source:
    """A file.

    Attributes:
        name: its name in tables: the path relative to the given folder, with control characters
            escaped.
        path: of the file.
        kind: ``video`` or ``picture``.
        outcome: ``ok``, or why it is skipped.
        folder: name of the given folder or of the file's own, which tells files of one name apart.
    """

    name: str
    path: Path
    kind: str
    outcome: FrameStatus = FrameStatus.OK
    folder: str = ""


def find_sources(inputs: list[Path], out: Path | None = None) -> list[Source]:
    """All given files, and all files below given folders, in natural order.

    A file that is given directly counts as a video unless it is an image. In folders, the suffix
    tells the kind of a file, or its content where the suffix is unknown; other files are skipped.
    Hidden files are ignored.

    A file's name does not depend on what else is given, unless two would have the same: each is
    then prefixed with the name of its folder, and if they are still the same, with a hash of its
    path. A file that has been predicted in ``out`` keeps the name it has there.

    Raises:
        UserError: a path does not exist, or a folder is unreadable or empty.
    """
    raise_all(
        [
            UserError("the file or folder does not exist", where=path, fix="correct the path")
            for path in inputs
            if not os.path.lexists(path)
        ]
    )
    found: dict[str, Source] = {}
    for path in inputs:
        sources = _below(path) if path.is_dir() else iter([_named(path)])
        for source in sources:
            found.setdefault(str(source.path.absolute()), source)
    if not found:
        raise UserError(
            "no files were found",
            where=", ".join(map(str, inputs)) or "prediction.videos",
            fix="give a video, an image or a folder of them",
        )
    named = _told_apart(_once(list(found.values())), known_files(out) if out else {})
    return sorted(named, key=lambda source: natural_order(source.name))


def _once(sources: list[Source]) -> list[Source]:
    """Without files that are found twice, by two paths."""
    found: dict[tuple[str, str], Source] = {}
    for source in sources:
        found.setdefault((source.name, os.path.realpath(source.path)), source)
    return list(found.values())


class Note(NamedTuple):
    """What a file is called in an output: its name, and the folder of its outputs."""

    name: str
    folder: str


def known_files(out: Path) -> dict[str, Note]:
    """By path, the files that have been predicted in an output and still exist."""
    return {
        os.path.realpath(out / path): note
        for path, note in noted_files(out).items()
        if os.path.lexists(out / path)
    }


def folders_of_gone_files(out: Path) -> list[str]:
    """The folders that files had in an output before they were moved or removed."""
    noted = noted_files(out).items()
    return [note.folder for path, note in noted if not os.path.lexists(out / path)]


def noted_files(out: Path) -> dict[str, Note]:
    """What ``remember_files`` wrote, by path relative to ``out``; nothing if it cannot be read."""
    try:
        if (out / NOTES).exists():
            found = json.loads((out / NOTES).read_text(encoding="utf-8"))
            notes = {path: Note(**note) for path, note in found.items()}
        else:  # an earlier version: a file's folder had its name
            found = json.loads((out / EARLIER_NOTES).read_text(encoding="utf-8"))
            notes = {path: Note(name, name) for path, name in found.items()}
        return {path: note for path, note in notes.items() if _is_below(note.folder)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _is_below(folder: str) -> bool:
    """Whether a relative path leads below where it starts."""
    path = PurePosixPath(folder)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def remember_files(sources: list[Source], folders: dict[str, str], out: Path) -> None:
    """Note the names and folders of these files, in addition to those of earlier calls."""
    notes = known_files(out) | {
        os.path.realpath(one.path): Note(one.name, folders.get(one.name, IMAGES)) for one in sources
    }
    top = os.path.realpath(out)  # relative, so that both may be moved together
    relative = {os.path.relpath(path, top): note._asdict() for path, note in notes.items()}
    write_text(out / NOTES, json.dumps(relative, indent=1) + "\n")


def output_folders(
    names: list[str],
    known: Iterable[Note] = (),
    occupied: Callable[[str, str], bool] = lambda folder, name: False,
) -> dict[str, str]:
    """The folder of each video's outputs: its name without the suffix, if that is unambiguous.

    No two folders are the same on a disk that ignores case. None is inside another, unless a later
    call adds ``a/b.mp4`` to ``a.mp4``.

    Args:
        names: the names of all videos.
        known: files that have been predicted in the output; they keep their folders.
        occupied: whether something else than the outputs of a name has the place of a folder.
    """
    kept = {note.name: note.folder for note in known if note.folder != IMAGES}
    stems = {name: without_suffix(name) for name in names}
    counts = Counter(map(_folded, stems.values()))
    taken = {_folded(str(p)) for name in [*names, *kept] for p in PurePosixPath(name).parents}
    taken |= set(map(_folded, kept.values()))

    def is_free(folder: str, name: str) -> bool:
        return not (_folded(folder) in taken or _is_reserved(folder) or occupied(folder, name))

    found = {}
    for name, stem in stems.items():
        hidden = stem.rpartition("/")[2].startswith(".")  # among them "." and ".."
        ambiguous = counts[_folded(stem)] > 1 or without_suffix(stem) != stem  # v.mp4.avi
        choices = [name] if hidden or ambiguous else [stem, name]
        marked = f"{name}~{digest(name)[:8]}"
        free = (folder for folder in choices if is_free(folder, name))
        found[name] = kept.get(name) or next(free, marked)
        taken.add(_folded(found[name]))
    return found


def _folded(name: str) -> str:
    """A name as disks compare it that ignore case and how accents are written."""
    return composed(name).casefold()


def _told_apart(sources: list[Source], known: dict[str, Note]) -> list[Source]:
    """The sources with names of their own."""
    by_path = {path: note.name for path, note in known.items()}
    kept = [replace(s, name=by_path.get(os.path.realpath(s.path), s.name)) for s in sources]
    owners: dict[str, set[str]] = defaultdict(set)
    for path, name in by_path.items():
        owners[name].add(path)
    for source in kept:
        owners[source.name].add(os.path.realpath(source.path))
    found = [
        replace(source, name=f"{source.folder}/{source.name}")
        if (len(owners[source.name]) > 1 or _is_reserved(source.name))
        and os.path.realpath(source.path) not in by_path
        else source
        for source in kept
    ]
    counts = Counter(source.name for source in found)
    return [
        replace(source, name=_marked(source))
        if counts[source.name] > 1 or _is_reserved(source.name)
        else source
        for source in found
    ]


def _is_reserved(name: str) -> bool:
    """Whether the output has a file or folder of its own of this name."""
    return _folded(name.partition("/")[0]) in RESERVED


def _marked(source: Source) -> str:
    """A name that no other file has."""
    mark = digest(path_text(source.path.absolute()))[:8]
    folder, _, name = source.name.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return f"{folder or 'file'}~{mark}/{stem}{dot}{suffix}"


def _named(path: Path) -> Source:
    """A file that was given directly."""
    kind = suffix_kind(path)
    source = _source(path, path.name, path.absolute().parent.name, kind)
    if source.outcome != FrameStatus.OK or kind is not None:
        return source
    return replace(source, kind=media_kind(path) or VIDEO)


def _below(root: Path) -> Iterator[Source]:
    """The files below a folder, and the links and folders that cannot be followed."""
    seen: set[str] = set()
    unreadable: list[OSError] = []
    given = shown_name(root.resolve().name)

    def broken(path: Path, outcome: FrameStatus) -> Source:
        name = _fitting(path.relative_to(root).as_posix())
        return Source(name, path, VIDEO, outcome, given)

    for here, folders, names in walk_once(root, seen, unreadable.append):
        real = os.path.realpath(here)
        # Links last, so that a file has the name that it has without them.
        folders.sort(key=lambda name: ((here / name).is_symlink(), name))
        for name in list(folders):
            target = os.path.realpath(here / name)
            if name.startswith(".") or target in seen:
                folders.remove(name)
                if not name.startswith(".") and (real + os.sep).startswith(target + os.sep):
                    yield broken(here / name, FrameStatus.BROKEN_LINK)
        for name in names:
            if not name.startswith("."):
                yield _of_folder(here / name, root, given)
    for error in unreadable:
        path = Path(os.fsdecode(error.filename))
        if path == root:
            raise UserError(
                f"the folder cannot be read: {error.strerror}",
                where=path,
                fix="correct its permissions, or choose another folder",
            )
        yield broken(path, FrameStatus.NO_PERMISSION)


def _of_folder(path: Path, root: Path, given: str) -> Source:
    name = path.relative_to(root).as_posix()
    if path.suffix.lower() == ".dvc":
        target = path.with_suffix("")
        if suffix_kind(target) is not None and not target.exists():
            return Source(_fitting(name)[:-4], path, VIDEO, FrameStatus.NOT_FETCHED, given)
    source = _source(path, name, given, suffix_kind(path))
    if source.outcome != FrameStatus.OK:
        return source
    kind = media_kind(path)
    return replace(source, kind=kind) if kind else replace(source, outcome=FrameStatus.NOT_MEDIA)


def _source(path: Path, name: str, folder: str, kind: str | None) -> Source:
    """A file with what keeps it from being read; of an unknown kind, it is taken for a video."""
    source = Source(_fitting(name), path, kind or VIDEO, folder=shown_name(folder))
    if path.is_symlink() and not path.exists():
        return replace(source, outcome=FrameStatus.BROKEN_LINK)
    if not path.is_file():  # opening a pipe would wait for somebody to write
        return replace(source, outcome=FrameStatus.NOT_MEDIA)
    if not os.access(path, os.R_OK, effective_ids=True):
        return replace(source, outcome=FrameStatus.NO_PERMISSION)
    if kind is not None and is_pointer(path):
        return replace(source, outcome=FrameStatus.NOT_FETCHED)
    return source


def _fitting(name: str) -> str:
    """A relative path as shown; parts that escapes have made too long for a folder are cut."""
    return "/".join(
        part
        if len(part.encode()) <= LONGEST
        else part.encode()[: LONGEST - 20].decode(errors="ignore") + "~" + digest(part)[:16]
        for part in shown_name(name).split("/")
    )


def manifest(sources: list[Source], people: People) -> pd.DataFrame:
    """Rows of ``dataset.manifest.MANIFEST``, as read by the stages of the pipeline."""
    persons = [EVERYBODY if people == "all" else ""]
    rows: list[dict[str, Any]] = [
        {
            "video": source.name,
            "kind": source.kind,
            "path": path_text(source.path),
            "sha256": file_digest(source.path),
            "persons": persons,
            "folders": [""],
            "folder_states": [""],
            "frame_limit": 0,
        }
        for source in sources
    ]
    return pd.DataFrame(rows, columns=MANIFEST.names)
