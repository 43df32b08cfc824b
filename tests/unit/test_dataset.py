"""Reading a tree in Aff-Wild2's shape: what is found, and every kind of fault."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import (
    EVERY_CLASS,
    EVERY_UNIT,
    add_validation_video,
    annotation,
    write_annotation,
    write_video,
)

from clipaffect.config.data import Data, Subset
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import AU, EXPR
from clipaffect.dataset.files import natural_order
from clipaffect.dataset.index_dataset import index_dataset, shard_of
from clipaffect.dataset.inventory import inventory
from clipaffect.dataset.readers.aff_wild2 import scan_tree
from clipaffect.dataset.readers.annotation_files import read_annotation
from clipaffect.dataset.subset import _narrow
from clipaffect.dataset.test_list import TestList
from clipaffect.dataset.tree import Tree


def data(root: Path, **changes) -> Data:
    return Data(
        videos=str(root / "videos"), annotations=str(root / "annotations"), shards=3, **changes
    )


def index(root: Path, **changes) -> Path:
    index_dataset(data(root, **changes), (EXPR, AU), root / "out")
    return root / "out"


def test_everything_is_found(tree: Path) -> None:
    out = index(tree)
    manifests = [read_table(path) for path in sorted((out / "manifests").glob("*.parquet"))]
    videos = {row["video"]: row for m in manifests for row in m.to_dict("records")}
    assert set(videos) == {"a 1", "b'2\"", "c10"}
    assert list(videos["b'2\""]["persons"]) == ["left", "right"]
    for number, manifest in enumerate(manifests):
        assert all(shard_of(video, 3) == number for video in manifest["video"])
    labels = read_table(out / "labels/EXPR.parquet")
    assert len(labels) == 4 * 12
    assert (
        labels.groupby(["video", "person"])["frame"].agg(["min", "max"]).to_numpy().tolist()
        == [[1, 12]] * 4
    )
    summary = json.loads((out / "summary.json").read_text())
    assert summary["tasks"]["EXPR"]["train"]["people"] == 3
    assert summary["tasks"]["EXPR"]["train"]["counts"]["Neutral"] == 6


def test_manifests_know_nothing_of_labels(tree: Path) -> None:
    before = {p.name: p.read_bytes() for p in (index(tree) / "manifests").iterdir()}
    path = annotation(tree, EXPR, "Train_Set", "a 1")
    write_annotation(path, EXPR.header, ["3", *EVERY_CLASS[1:]])
    after = {p.name: p.read_bytes() for p in (index(tree) / "manifests").iterdir()}
    assert before == after


def test_one_more_video_touches_one_shard(tree: Path) -> None:
    before = {p.name: p.read_bytes() for p in (index(tree) / "manifests").iterdir()}
    write_video(tree / "videos/new.mp4")
    for task, rows in ((EXPR, EVERY_CLASS), (AU, EVERY_UNIT)):
        write_annotation(annotation(tree, task, "Train_Set", "new"), task.header, rows)
    after = {p.name: p.read_bytes() for p in (index(tree) / "manifests").iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"{shard_of('new', 3):04d}.parquet"}


def test_a_video_without_annotation_is_counted_and_one_without_file_is_named(tree: Path) -> None:
    write_video(tree / "videos/extra.mp4")
    (tree / "videos/batch1/c10.mp4").unlink()
    add_validation_video(tree)
    summary = json.loads((index(tree) / "summary.json").read_text())
    assert summary["videos_not_annotated"] == 1
    assert summary["videos_missing"] == ["c10"]


def test_a_video_whose_own_name_ends_in_left(tree: Path) -> None:
    write_video(tree / "videos/turn_left.mp4")
    for task, rows in ((EXPR, EVERY_CLASS), (AU, EVERY_UNIT)):
        write_annotation(annotation(tree, task, "Train_Set", "turn_left"), task.header, rows)
    found = scan_tree(data(tree), (EXPR,)).annotations
    assert [(a.video, a.person) for a in found if "turn" in a.video] == [("turn_left", "")]


def test_other_editions_folder_name(tree: Path) -> None:
    folder = tree / "annotations"
    (folder / "EXPR_Recognition_Challenge").rename(folder / "EXPR_Classification_Challenge")
    assert len(scan_tree(data(tree), (EXPR,)).annotations) == 4


def test_subset_takes_the_first_by_natural_order(tree: Path) -> None:
    assert sorted(["v10", "v2", "v1"], key=natural_order) == ["v1", "v2", "v10"]
    rows = read_table(index(tree, subset=Subset(train=1, validation=1)) / "labels/EXPR.parquet")
    assert set(rows["video"]) == {"a 1", "c10"}


def test_inventory_sees_any_change(tree: Path) -> None:
    states = [inventory(data(tree), (EXPR, AU))]
    write_annotation(annotation(tree, EXPR, "Train_Set", "a 1"), EXPR.header, ["0"] * 12)
    states.append(inventory(data(tree), (EXPR, AU)))
    (tree / "videos/batch1/c10.mp4").unlink()
    states.append(inventory(data(tree), (EXPR, AU)))
    assert len(set(states)) == 3


def test_windows_line_ends_bom_and_spaces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(
        b"\xef\xbb\xbf" + EXPR.header.replace(",", ", ").encode() + b"\r\n3\r\n-1 \r\n\r\n"
    )
    assert read_annotation(path, EXPR).tolist() == [[3], [-1]]


def test_several_faults_are_told_at_once(tree: Path) -> None:
    for name in ("a 1", "b'2\"_left"):
        write_annotation(annotation(tree, EXPR, "Train_Set", name), EXPR.header, ["9"])
    with pytest.raises(UserError, match="2 problems were found") as caught:
        index(tree)
    assert "a 1.txt" in str(caught.value)
    assert "_left.txt" in str(caught.value)


def test_a_subsets_test_list_has_its_first_videos_and_frames() -> None:
    rows = pd.DataFrame(
        [(v, frame) for v in ("a", "b", "c") for frame in range(1, 6)], columns=["video", "frame"]
    )
    tree = Tree({}, None, [], {"AU": TestList(Path("list.txt"), rows)})
    found = _narrow(tree, {}, Subset(train=1, validation=2, frames=3)).test["AU"].rows
    assert list(found.itertuples(index=False, name=None)) == [
        (v, frame) for v in ("a", "b") for frame in (1, 2, 3)
    ]
