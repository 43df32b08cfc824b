"""Describe the facts of a data set in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clipaffect.core.split_names import TRAIN, VALIDATION

FEW, FEW_PAIRS = 5, 20


def data_notes(facts: dict[str, Any]) -> Iterator[str]:
    """Sentences about ``facts`` (see ``facts.collect``): what is missing, then the verdicts."""
    if missing := facts["videos_missing"]:
        yield _missing_note(missing, facts["first_missing"])
    yield from facts["notes"]
    yield from _verdicts(facts)
    for name, found in facts["frame_lists"].items():
        yield _list_note(name, found)
    for task, found in facts["test"].items():
        rows = f", {found['rows']:,} rows" if found["rows"] else ""
        if found["without_image"]:
            rows += (
                f", of which {found['without_image']:,} have no image: they get the score of a "
                "neighbouring frame, or a constant prediction if the person has no image at all"
            )
        yield f"{task} to be predicted: {found['people']:,} people or videos{rows}."
    yield from _problems(facts)
    if facts["videos_found"]:
        yield (
            f"{facts['videos_found']:,} video files were found; {facts['videos_not_annotated']:,} "
            "of them have no annotation and are not used."
        )
    if facts["crop_folders_found"]:
        yield (
            f"{facts['crop_folders_found']:,} folders of crops were found; "
            f"{facts['crop_folders_used']:,} are used, with {facts['images_used']:,} images."
        )
    if facts["single_images"]:
        compared = "" if facts["images_compared"] else "; too many to search for duplicates"
        yield f"{facts['single_images']:,} single images are used{compared}."
    if sizes := facts["crop_sizes"]:
        if len(sizes) == 1:
            yield f"The images are {sizes[0][0]} x {sizes[0][1]} pixels."
        else:
            crops = ": these are the organisers' `cropped`, not `cropped_aligned`"
            yield (
                f"The image sizes vary from {sizes[0][0]} x {sizes[0][1]} to {sizes[-1][0]} x "
                f"{sizes[-1][1]} pixels{crops if facts['crop_folders_used'] else ''}."
            )


def _verdicts(facts: dict[str, Any]) -> Iterator[str]:
    for task, splits in facts["tasks"].items():
        for split, found in splits.items():
            if found["sentence"]:
                yield f"{task} {split}: {found['sentence']}."
        for split, found in splits.items():
            absent = [name for name, count in found["counts"].items() if not count]
            if split != TRAIN and absent:
                alone = "" if split == VALIDATION else " in that fold only"
                yield f"Not in {task} {split}: {', '.join(absent)} (F1 counts as 0{alone})."


def import_note(name: str, found: dict[str, int]) -> str:
    """Describe an import of features; see ``imported.check_import``."""
    none, missing = found["of_no_annotated_frame"], found["frames_without_feature"]
    return (
        f"{name}: imported features of length {found['dimension']:,}. Of {found['rows']:,} "
        f"rows, {found['used']:,} belong to annotated frames and {none:,} to none; {missing:,} "
        "annotated frames have no feature."
    )


def class_counts(found: dict[str, Any]) -> Iterator[str]:
    """Frames of each class or label of a split, with the published count where available."""
    for name, cell in class_cells(found).items():
        yield f"{name} {cell}"


def class_cells(found: dict[str, Any]) -> dict[str, str]:
    """The same, by class."""
    frames = max(1, found["annotated"] if found["with_image"] is None else found["with_image"])
    published = found["published"] or [""] * len(found["counts"])
    cells = {}
    for (name, count), other in zip(found["counts"].items(), published, strict=True):
        share = f" = {100 * count / frames:.1f} %" if other.endswith("%") else ""
        cells[name] = f"{count:,}{share}" + (f" (published {other})" if other else "")
    return cells


def _problems(facts: dict[str, Any]) -> Iterator[str]:
    if other := facts["other_annotation_files"]:
        yield (
            f"{len(other):,} files among the annotations do not end in .txt and are not read: "
            f"{_few(other)}."
        )
    if near := facts["near_names"]:
        pairs = [f"'{name}' exists as '{other}'" for name, other in near.items()]
        yield f"Names that differ only in case or in the encoding of an accent: {_few(pairs)}."
    if empty := facts["empty"]:
        one = "file or folder of crops is", "files or folders of crops are"
        yield f"{len(empty):,} {one[len(empty) > 1]} empty: {_few(empty)}."
    if shadowed := facts["shadowed"]:
        yield (
            "Several folders of crops have the same name: the first (by root, then by path) is "
            "used, and these are not: "
            f"{_few([path for paths in shadowed.values() for path in paths])}."
        )
    if odd := facts["files_of_other_names"]:
        folder, names = next(iter(odd.items()))
        yield (
            f"{len(odd):,} folders of crops contain files that are not named like frames "
            f"(00001.jpg), such as {folder}: {_few(names)}."
        )
    spanning = {tuple(names) for names in facts["duplicates_in_both_splits"]}
    for names in facts["duplicates"][:FEW_PAIRS]:
        both = tuple(names) in spanning
        warning = (
            ", in two splits: remove one, or the score counts people that heads were trained on"
        )
        warned = warning if both else ""
        yield f"These look like the same recording or image{warned}: {_few(names)}."
    if len(facts["duplicates"]) > FEW_PAIRS:
        yield (
            f"Of {len(facts['duplicates']):,} such groups, the first {FEW_PAIRS} are listed; "
            f"{len(spanning):,} are in two splits."
        )
    if leaks := facts["in_test_and_training"]:
        yield f"To be predicted, but also used in training: {_few(leaks)}."


def _missing_note(missing: Sequence[str], first: str) -> str:
    if first:
        return (
            f"{len(missing):,} files named in rows do not exist, such as {first}. Is data.root "
            "correct? Their rows are kept, as video_missing."
        )
    who = "1 person has" if len(missing) == 1 else f"{len(missing):,} people have"
    return (
        f"{who} labels or rows to be predicted, but no crops and no video (or image) on disk: "
        f"{_few(missing)}. Is a root missing?"
    )


def _list_note(name: str, found: dict[str, Any]) -> str:
    if found["same"] == found["listed"] == found["found"] and not found["repeated"]:
        return f"{name}: all {found['listed']:,} frames match the published list, label by label."
    parts = [
        f"{found[key]:,} {words}"
        for key, words in (
            ("same", "the same"),
            ("other_label", "with another label"),
            ("only_listed", "only in the list"),
            ("only_found", "found alone"),
            ("repeated", "listed again"),
        )
    ]
    examples = "; ".join(f"{kind}: {_few(rows)}" for kind, rows in found["examples"].items())
    return (
        f"{name} compared with the list of {found['listed']:,} frames: {', '.join(parts)} "
        f"({examples})."
    )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:FEW])
    return shown + (f" and {len(names) - FEW:,} more" if len(names) > FEW else "")
