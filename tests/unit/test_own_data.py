"""A table of one's own: read into rows, with its mistakes named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import write_video

from clipaffect.config import parse_config
from clipaffect.config.data import Data
from clipaffect.core.errors import UserError
from clipaffect.core.video import presentation_times, read_frames
from clipaffect.dataset.inventory import inventory
from clipaffect.dataset.label_rows import nearest_frames
from clipaffect.dataset.readers.registry import read_dataset
from clipaffect.dataset.summary import collect
from clipaffect.dataset.summary_text import data_notes

MOOD = {"mood": {"classes": ["calm", "tense", "bored"]}}
MARKS = {"marks": {"labels": ["smile", "frown"]}}


def picture(path: Path, brightness: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 8, 3), brightness, np.uint8))
    return path


def table(folder: Path, text: str, *, images: int = 8) -> Path:
    for number in range(images):
        picture(folder / f"i/{number}.png", number)
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def settings(path: Path, tasks: dict[str, Any] = MOOD, **more: Any) -> Data:
    return Data.model_validate({"format": "table", "table": str(path), "tasks": tasks} | more)


def read(data: Data) -> tuple[Any, dict[str, pd.DataFrame]]:
    return read_dataset(data, list(data.known_tasks().values()))


SIX = """image,person,split,mood
i/0.png,ann,train,calm
i/1.png,ann,train,1
i/2.png,bea,train,bored
i/3.png,cid,validation,calm
i/4.png,cid,validation,TENSE
i/5.png,dov,validation,
"""


def test_a_table_of_images_is_read_row_by_row(tmp_path: Path) -> None:
    tree, labels = read(settings(table(tmp_path, SIX)))
    rows = labels["mood"].astype({"video": str, "split": str, "group": str})
    assert rows["video"].tolist() == [f"i/{k}.png" for k in range(5)]  # the last has no label
    assert rows["label"].tolist() == [0, 1, 2, 0, 1]
    assert rows["split"].tolist() == ["train"] * 3 + ["validation"] * 2
    assert rows["group"].tolist() == ["ann", "ann", "bea", "cid", "cid"]
    assert (rows["frame"] == 1).all()
    assert tree.images["i/3.png"] == tmp_path / "i/3.png"
    facts = collect(settings(table(tmp_path, SIX)), list(data_tasks()), tree, labels)
    assert facts["tasks"]["mood"]["train"]["people"] == 2
    assert facts["single_images"] == 5


def data_tasks() -> Any:
    return (
        Data.model_validate({"format": "table", "table": "x", "tasks": MOOD}).known_tasks().values()
    )


def test_parquet_and_csv_give_the_same_rows(tmp_path: Path) -> None:
    text = """image,split,mood,smile,frown
i/0.png,train,calm,1,0
i/1.png,train,tense,0,
i/2.png,train,bored,-1,1
i/3.png,validation,calm,true,no
"""
    tasks = MOOD | MARKS
    path = table(tmp_path, text)
    _, from_csv = read(settings(path, tasks))
    frame = pd.DataFrame(
        {
            "image": [f"i/{k}.png" for k in range(4)],
            "split": ["train"] * 3 + ["validation"],
            "mood": [0, 1, 2, 0],
            "smile": [1.0, 0.0, None, 1.0],
            "frown": pd.array([0, None, 1, 0], "Int64"),
        }
    )
    frame.to_parquet(tmp_path / "labels.parquet")
    _, from_parquet = read(settings(tmp_path / "labels.parquet", tasks))
    for task in tasks:
        pd.testing.assert_frame_equal(from_csv[task], from_parquet[task])
    marks = from_csv["marks"][["smile", "frown"]].to_numpy().tolist()
    assert marks == [[1, 0], [0, -1], [-1, 1], [1, 0]]


MISTAKES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a class that is none": (SIX.replace("bored", "bord"), {}, ["'bord'", "line 4", "calm, tense"]),
    "a number that is no class": (SIX.replace(",1\n", ",3\n"), {}, ["'3'", "line 3"]),
    "no such column": (SIX.replace("mood", "moods"), {}, ["no column 'mood'", "'moods'"]),
    "no image": (SIX.replace("image,", "picture,"), {}, ["'image' or 'video'", "picture"]),
    "a cell too many": (
        SIX.replace("cid,validation,calm", "cid,validation,calm,x"),
        {},
        ["5 cells, but the header has 4", "line 5"],
    ),
    "a cell too few": (
        SIX.replace("i/5.png,dov,validation,\n", "i/5.png,dov\n"),
        {},
        ["2 cells", "line 7"],
    ),
    "a path that leaves": (SIX.replace("i/2.png", "../i/2.png"), {}, ["leaves", "line 4"]),
    "an absolute path": (SIX.replace("i/2.png", "/etc/passwd"), {}, ["is absolute", "line 4"]),
    "a split that is none": (
        SIX.replace("validation,TENSE", "check,TENSE"),
        {},
        ["unknown split 'check'", "line 6"],
    ),
    "one person in two splits": (SIX.replace("cid", "ann"), {}, ["more than one split", "ann"]),
    "an image twice": (
        SIX + "i/0.png,ann,train,tense\n",
        {},
        ["two labels for mood", "line 2", "line 8"],
    ),
    "a frame of an image": (
        "image,frame,mood\ni/0.png,3,calm\n",
        {},
        ["cannot have a frame or a time", "line 2"],
    ),
    "nothing but the header": ("image,mood\n", {}, ["no rows below the header"]),
    "nobody is labelled": ("image,split,mood\ni/0.png,train,\n", {}, ["no row has a label"]),
    "no splits": ("image,mood\ni/0.png,calm\n", {}, ["no splits", "hold_out"]),
    "too few people": (SIX, {"split": {"by": "folds", "folds": 5}}, ["3 people", "5 parts"]),
    "a class that only one fold has": (
        SIX,
        {"split": {"by": "folds", "folds": 2}},
        ["no training frame of fold", "bored"],
    ),
    "a side of an image": (
        "image,side,split,mood\ni/0.png,left,train,0\n",
        {},
        ["an image cannot have a side", "line 2"],
    ),
    "a person called NA in two splits": (
        SIX.replace("ann", "NA").replace("cid", "NA"),
        {},
        ["more than one split", "NA"],
    ),
    "a path written in two ways": (
        SIX.replace("i/3.png,cid", "i//./0.png,cid"),
        {},
        ["two labels for mood", "line 2", "line 5"],
    ),
    "two columns of one name": (SIX.replace("person", "mood", 1), {}, ["two columns", "mood"]),
    "the table does not exist": ("", {"table": "gone.csv"}, ["the table does not exist"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_table_is_named(name: str, tmp_path: Path) -> None:
    text, more, words = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        read(settings(table(tmp_path, text), **more))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.fix


def test_rows_for_a_last_test_are_left_alone(tmp_path: Path) -> None:
    text = SIX.replace("i/3.png,cid,validation", "i/3.png,eve,test")
    path = table(tmp_path, text)
    tree, labels = read(settings(path))
    assert labels["mood"]["video"].nunique() == 4
    assert "1 rows of the test split are not used." in tree.notes
    path.write_text(text + "i/6.png,p,train,2\ni/7.png,q,train,0\n")
    _, labels = read(settings(path, split={"by": "hold_out", "folds": 2}))
    assert "i/3.png" not in set(labels["mood"]["video"].astype(str))


def test_classes_that_are_numbers_are_names(tmp_path: Path) -> None:
    tasks = {"stars": {"classes": ["1", "2", "3"], "column": "mood"}}
    rows = [("1", "train"), ("2.0", "train"), ("3", "train"), ("3.0", "validation")]
    text = "image,split,mood\n" + "".join(
        f"i/{k}.png,{split},{value}\n" for k, (value, split) in enumerate(rows)
    )
    path = table(tmp_path, text)
    _, labels = read(settings(path, tasks))
    assert labels["stars"]["label"].tolist() == [0, 1, 2, 2]
    path.write_text(text.replace(",1\n", ",0\n"))
    with pytest.raises(UserError, match="'0' is not a label of stars"):
        read(settings(path, tasks))


def test_seconds_are_counted_from_the_first_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "v.ts", frames=10, rate=10)  # a transport stream does not begin at 0
    assert presentation_times(tmp_path / "v.ts")[0] > 0
    text = "video,time,split,mood\nv.ts,0,train,0\nv.ts,0.5,train,1\nv.ts,0.7,train,2\n"
    path = table(tmp_path, text + "w.ts,0.1,validation,0\nw.ts,0.2,validation,1\n", images=0)
    _, labels = read(settings(path))
    rows = labels["mood"]
    assert rows[rows["video"] == "v.ts"]["frame"].tolist() == [1, 6, 8]
    assert rows[rows["video"] == "w.ts"]["frame"].tolist() == [1, 2]  # not there: rows are kept


def test_a_tables_inventory_is_that_of_its_files(tmp_path: Path) -> None:
    data = settings(table(tmp_path, SIX))
    before = inventory(data, ())
    (tmp_path / "results").mkdir()  # a table beside the results does not make the index run again
    assert inventory(data, ()) == before
    picture(tmp_path / "i/new.png")
    assert inventory(data, ()) != before


def test_what_is_odd_in_a_table_is_said(tmp_path: Path) -> None:
    text = "image,split,mood,persn\n" + "".join(
        f"i/{k}.png,{'train' if k < 4 else 'test'},{k % 3},x\n" for k in range(8)
    )
    path = table(tmp_path, text, images=7)
    picture(tmp_path / "i/6.png", 0)  # the bytes of image 0, in the other split
    data = settings(path)
    tree, labels = read(data)
    notes = "\n".join(data_notes(collect(data, list(data_tasks()), tree, labels)))
    assert "persn." in notes
    assert "8 of 8 rows" in notes
    assert "do not name a person" in notes
    assert f"1 files named in rows do not exist, such as {tmp_path}/i/7.png" in notes
    assert "in two splits" in notes
    assert "There is no validation split: the test split is scored" in notes
    assert labels["mood"]["split"].astype(str).unique().tolist() == ["train", "validation"]


def test_people_join_the_videos_they_are_in(tmp_path: Path) -> None:
    # ann is in a and b, b also shows bea, who is in c: one group; dov has d alone
    rows = [
        "a.mp4,,ann,0",
        "b.mp4,left,ann,1",
        "b.mp4,right,bea,2",
        "c.mp4,,bea,0",
        "d.mp4,,dov,{d}",
        "e.mp4,,,{e}",
    ]
    for name in "abcde":
        write_video(tmp_path / f"{name}.mp4", frames=3)

    def write(d: int, e: int) -> Path:
        lines = [f"{frame},{row.format(d=d, e=e)}" for row in rows for frame in (1, 2, 3)]
        return table(tmp_path, "\n".join(["frame,video,side,person,mood", *lines]), images=0)

    with pytest.raises(UserError, match="no training frame"):
        read(settings(write(0, 1), split={"by": "folds", "folds": 3}))  # one group alone is bored
    _, labels = read(settings(write(1, 2), split={"by": "hold_out", "folds": 3}))
    found = labels["mood"]
    by_group = found.groupby("group", observed=True)["video"].agg(lambda v: {*v.astype(str)})
    assert by_group.to_dict() == {
        "ann": {"a.mp4", "b.mp4", "c.mp4"},
        "dov": {"d.mp4"},
        "e.mp4": {"e.mp4"},
    }
    assert found.groupby("group", observed=True)["split"].nunique().max() == 1


def test_a_video_is_labelled_as_a_whole_by_frame_or_by_time(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames=10, rate=10)
    write_video(tmp_path / "w.mp4", frames=6, rate=10)
    text = """video,frame,time,split,mood
v.mp4,,,train,calm
w.mp4,,0.0,validation,calm
w.mp4,,0.24,validation,tense
w.mp4,5,,validation,bored
w.mp4,,2.0,validation,calm
x.mp4,,,train,bored
x2.mp4,,,train,tense
"""
    tree, labels = read(settings(table(tmp_path, text, images=0)))
    rows = labels["mood"]
    own = {v: part["frame"].tolist() for v, part in rows.groupby("video", observed=True)}
    # 0.24 s is nearest to frame 3 (0.2 s); 2 s lie behind the last of six frames
    assert own == {"v.mp4": list(range(1, 11)), "w.mp4": [1, 3, 5, 21], "x.mp4": [1], "x2.mp4": [1]}
    assert (rows[rows["video"] == "v.mp4"]["label"] == 0).all()
    facts = collect(settings(tmp_path / "labels.csv"), list(data_tasks()), tree, labels)
    assert facts["tasks"]["mood"]["validation"]["beyond"] == 1
    assert facts["videos_missing"] == ["x.mp4", "x2.mp4"]


@pytest.mark.parametrize("name", ["laughing.mp4", "face_noface.mov"])
def test_times_of_packets_are_those_of_decoded_frames(name: str, real_clips: Path) -> None:
    decoded = [frame.time for frame in read_frames(real_clips / name)]
    np.testing.assert_allclose(presentation_times(real_clips / name), decoded, atol=1e-9)


def test_a_time_means_the_nearest_frame() -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.02, 0.08, 50))  # a rate that varies
    asked = rng.uniform(0, times[-1], 500)
    nearest = np.abs(times[None] - asked[:, None]).argmin(axis=1) + 1
    assert nearest_frames(times, asked).tolist() == nearest.tolist()
    assert nearest_frames(times, np.array([times[-1] + 1.0]))[0] > 50
    assert nearest_frames(times, np.array([1e12])).tolist() == [2**31 - 2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"format": "table"}, ["needs 'table'"]),
        ({"format": "table", "table": "x.csv"}, ["needs 'tasks'"]),
        ({"format": "raf_db", "root": "x", "videos": "y"}, ["does not use 'videos'"]),
        ({"format": "table", "table": "x", "tasks": {"a": {}}}, ["either 'classes' or 'labels'"]),
        ({"format": "table", "table": "x", "tasks": {"a/b": {"labels": ["x"]}}}, ["plain name"]),
        (
            {"format": "table", "table": "x", "tasks": {"a": {"labels": ["frame"]}}},
            ["rename the label"],
        ),
        ({"format": "table", "table": "x", "tasks": {"a": {"classes": ["b", "b"]}}}, ["twice"]),
        ({"format": "folders", "root": "x", "tasks": {"a": {"labels": ["b"]}}}, ["one task"]),
        ({"tabel": "x"}, ["did you mean 'table'"]),
    ],
)
def test_a_configuration_of_own_data_is_checked(data: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_config({"data": data}, "c.yaml")
    for word in words:
        assert word in str(caught.value)


def test_a_time_between_two_frames_is_the_earlier_ones() -> None:
    times = np.array([0.0, 1.0, 2.0])
    assert nearest_frames(times, np.array([0.4, 0.5, 0.6, 1.5, 2.4, 3.6])).tolist() == [
        1,
        1,
        2,
        2,
        3,
        5,
    ]
