"""A table of people over data whose files do not say who is in them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import add_validation_video, annotation

from clipaffect.config.data import Data, Splitting
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import AU, EXPR
from clipaffect.dataset.groups import group_names, joins_people, people_in
from clipaffect.dataset.index_dataset import index_dataset
from clipaffect.dataset.inventory import inventory

PAIR = "b'2\""  # the tree's video with two people; "a 1" is in training too, "c10" in validation
EVERYBODY = [
    ("video", "side", "person"),
    ("a 1", "", "ann"),
    (PAIR, "left", "bea"),
    (PAIR, "right", "cid"),
    ("c10.mp4", "", "dora"),
]


def settings(root: Path, table: list[tuple[str, ...]], **changes) -> Data:
    path = root / "people.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    return Data(
        videos=str(root / "videos"),
        annotations=str(root / "annotations"),
        people=str(path),
        **changes,
    )


def index(root: Path, data: Data) -> tuple[dict[tuple[str, str], str], dict]:
    """The group of each person in each video, and the summary."""
    index_dataset(data, (EXPR, AU), root / "out")
    rows = read_table(root / "out/labels/EXPR.parquet").astype({"group": str})
    owners = rows[["video", "person", "group"]].drop_duplicates()
    groups = {(video, side): group for video, side, group in owners.itertuples(index=False)}
    return groups, json.loads((root / "out/summary.json").read_text())


def test_without_a_table_each_source_video_is_a_group(tree: Path) -> None:
    data = Data(videos=str(tree / "videos"), annotations=str(tree / "annotations"))
    groups, summary = index(tree, data)
    assert set(groups.values()) == {"a 1", PAIR, "c10"}
    assert not summary["names_people"]
    assert summary["unit"] == "source videos"
    assert summary["tasks"]["EXPR"]["train"]["people"] == 3


def test_people_of_one_video_are_one_group_of_two(tree: Path) -> None:
    groups, summary = index(tree, settings(tree, EVERYBODY))
    assert groups[PAIR, "left"] == groups[PAIR, "right"] == "bea"
    assert groups["a 1", ""] == "ann"
    assert groups["c10", ""] == "dora"  # a suffix does not matter
    assert summary["names_people"]
    assert summary["unit"] == "groups of people"
    assert summary["tasks"]["EXPR"]["train"]["people"] == 3
    assert summary["notes"][-1].endswith("names 4 people in 3 videos.")


def test_a_person_in_two_videos_joins_them(tree: Path) -> None:
    add_validation_video(tree)
    table = [*EVERYBODY, ("d11", "", "dora")]
    groups, summary = index(tree, settings(tree, table))
    assert groups["c10", ""] == groups["d11", ""] == "dora"
    assert summary["tasks"]["EXPR"]["validation"]["people"] == 1
    assert summary["tasks"]["EXPR"]["validation"]["videos"] == 2


def test_who_has_rows_of_another_task_only_is_not_counted(tree: Path) -> None:
    for task in (EXPR, AU):
        add_validation_video(tree)
        annotation(tree, task, "Validation_Set", "d11").unlink()
        # One group of dora and eva: dora has rows of both tasks, eva of one.
        _, summary = index(
            tree, settings(tree, [*EVERYBODY, ("d11", "", "dora"), ("d11", "", "eva")])
        )
        other = {EXPR.name: AU, AU.name: EXPR}[task.name]
        counted = {name: found["validation"]["people"] for name, found in summary["tasks"].items()}
        assert counted == {task.name: 1, other.name: 2}
        assert summary["unit"] == "groups of people"


def test_a_person_in_both_splits_is_refused_by_name(tree: Path) -> None:
    table = [*EVERYBODY[:-1], ("c10", "", "ann")]
    with pytest.raises(UserError, match=r"more than one split of EXPR: ann .*train and validation"):
        index(tree, settings(tree, table))


def test_made_splits_keep_a_person_together(tree: Path) -> None:
    add_validation_video(tree)
    table = [*EVERYBODY, ("d11", "", "ann")]
    how = Splitting(by="folds", folds=3)
    index(tree, settings(tree, table, split=how))
    rows = read_table(tree / "out/labels/EXPR.parquet").astype(str)
    assert rows[rows["video"].isin(["a 1", "d11"])]["split"].nunique() == 1
    assert rows["split"].nunique() == 3


def test_who_is_not_named_is_counted_and_stays_alone(tree: Path) -> None:
    table = [*EVERYBODY[:2], ("of another edition", "", "ann")]
    groups, summary = index(tree, settings(tree, table))
    assert groups[PAIR, "left"] == groups[PAIR, "right"] == PAIR
    assert not summary["names_people"]
    note = summary["notes"][-1]
    assert "does not name 3 of 4 that are annotated, such as b'2\"_left" in note
    assert "1 of its rows name a video without annotations" in note


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("video", "who"), ("a 1", "ann")], "no column 'person'"),
        ([*EVERYBODY[:2], ("c10", "", " ")], "names no video or no person.*line 3"),
        ([*EVERYBODY[:2], (PAIR, "", "bea")], "does not say whom it means"),
        ([("video", "person")], "no rows below the header"),
    ],
)
def test_a_wrong_table_is_refused(tree: Path, rows: list[tuple[str, ...]], message: str) -> None:
    with pytest.raises(UserError, match=message.split(".*", maxsplit=1)[0]) as caught:
        index(tree, settings(tree, rows))
    assert message.rsplit(".*", maxsplit=1)[-1] in str(caught.value)


def test_a_changed_table_changes_the_inventory(tree: Path) -> None:
    before = inventory(settings(tree, EVERYBODY), (EXPR, AU))
    assert inventory(settings(tree, EVERYBODY[:-1]), (EXPR, AU)) != before


def test_groups_are_connected_through_people_and_videos() -> None:
    sources = ["v1", "v1", "v2", "v3", "v4", "v5"]
    people = ["ann", "bea", "bea", "cid", "", ""]
    groups = group_names(sources, people)
    assert groups == ["ann", "ann", "ann", "cid", "v4", "v5"]
    assert people_in(groups, people) == {"ann": {"ann", "bea"}, "cid": {"cid"}}
    assert joins_people(groups, people)
    assert not joins_people(groups[2:], people[2:])
    # A video that is called like a person who is not in it.
    assert group_names(["v1", "ann"], ["ann", ""]) == ["ann", "ann (unnamed)"]
