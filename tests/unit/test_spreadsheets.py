"""Tables as spreadsheets of several countries save them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_video

from clipaffect.config.data import Data
from clipaffect.core.errors import UserError
from clipaffect.dataset.numbers import is_date, read_numbers
from clipaffect.dataset.readers.registry import read_dataset

ROWS = [
    ["video", "time", "split", "mood", "smile"],
    ["a.mp4", "0.5", "train", "calm", "1"],
    ["a.mp4", "1.25", "train", "tense, bored", "0"],
    ["b.mp4", "0", "validation", "tense, bored", ""],
    ["b.mp4", "1.5", "validation", "calm", "1"],
]
TASKS = {"mood": {"classes": ["calm", "tense, bored"]}, "marks": {"labels": ["smile"]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name in ("a.mp4", "b.mp4"):
        write_video(root / name, frames=20, rate=10)
    return root


def labels_of(folder: Path, data: bytes, tasks: dict[str, object] = TASKS) -> list[pd.DataFrame]:
    (folder / "labels.csv").write_bytes(data)
    settings = Data.model_validate(
        {"format": "table", "table": str(folder / "labels.csv"), "tasks": tasks}
    )
    return list(read_dataset(settings, list(settings.known_tasks().values()))[1].values())


def text_of(rows: list[list[str]], separator: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows(rows)
    return out.getvalue()


def with_comma(rows: list[list[str]]) -> list[list[str]]:
    return [[row[0], row[1].replace(".", ","), *row[2:]] for row in rows]


VARIANTS = {
    "semicolons": text_of(ROWS, ";").encode(),
    "tabs": text_of(ROWS, "\t").encode(),
    "decimal comma": text_of(with_comma(ROWS), ";").encode(),
    "quoted decimal comma": text_of(with_comma(ROWS)).encode(),
    "byte-order mark": text_of(ROWS, ";").encode("utf-8-sig"),
    "UTF-16": text_of(with_comma(ROWS), "\t").encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + text_of(ROWS).encode("utf-16-be"),
    "sep=": ("sep=;\r\n" + text_of(ROWS, ";")).encode(),
    "titles and cells with other marks": text_of(
        [[*row, "a,b,c;d" if k else "note, of me; or, of you, or"] for k, row in enumerate(ROWS)],
        ";",
    ).encode(),
    "quoted sep=": ('"sep=;"\n' + text_of(ROWS, ";")).encode(),
    "empty columns and rows": text_of(
        [[*row, "", " "] for row in [*ROWS, ["", " ", "", "", ""], ["", "", "", "", ""]]]
    ).encode(),
    "old line ends": text_of(ROWS).replace("\r\n", "\r").encode(),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_of_saving_gives_the_same_labels(folder: Path, name: str) -> None:
    plain = labels_of(folder, text_of(ROWS).encode())
    for found, wanted in zip(labels_of(folder, VARIANTS[name]), plain, strict=True):
        pd.testing.assert_frame_equal(found, wanted)


def test_words_for_yes_and_no_are_the_configurations(folder: Path) -> None:
    german = [
        [*row[:4], {"1": "Ja", "0": "nein"}.get(row[4], row[4])] if k else row
        for k, row in enumerate(ROWS)
    ]
    data = text_of(german).encode()
    with pytest.raises(UserError, match="'Ja' is not a label of marks"):
        labels_of(folder, data)
    tasks = {**TASKS, "marks": {"labels": ["smile"], "yes": ["ja"], "no": ["nein"]}}
    plain = labels_of(folder, text_of(ROWS).encode())
    for found, wanted in zip(labels_of(folder, data, tasks), plain, strict=True):
        pd.testing.assert_frame_equal(found, wanted)


def test_all_mistakes_are_told_at_once(folder: Path) -> None:
    rows = [list(row) for row in ROWS]
    rows[1][1], rows[2][3], rows[3][4] = "05. Jan", "angry", "2"
    with pytest.raises(UserError) as caught:
        labels_of(folder, text_of(rows).encode())
    said = str(caught.value)
    for word in (
        "3 problems",
        "'05. Jan' is not a valid time: it looks like a date",
        "line 2, column 'time'",
        "'angry' is not a label of mood",
        "line 3, column 'mood'",
        "'2' is not a label of marks",
        "line 4, column 'smile'",
    ):
        assert word in said


NAN = float("nan")
NUMBERS = {
    "points": (["0.5", "12", "1.250"], [0.5, 12, 1.25], False),
    "commas": (["0,5", "12", "1,250"], [0.5, 12, 1.25], False),
    "thousands and decimals": (["1,234.5", "0.25"], [1234.5, 0.25], False),
    "the other way round": (["1.234,5", "0,25"], [1234.5, 0.25], False),
    "narrow spaces": (["1\u202f234,5", "12\u00a0345"], [1234.5, 12345], False),
    "apostrophes": (["1'234.5", "12\u2019345"], [1234.5, 12345], False),
    "grouped whole numbers": (["1,234", "999", "12,500"], [1234, 999, 12500], True),
    "grouped by points": (["1.234", "999", "2.000"], [1234, 999, 2000], True),
    "whole numbers with decimals": (["1.000", "2.000"], [1, 2], True),
    "a column of three decimals": (["1.000", "2.000", "3.500"], [1, 2, 3.5], False),
    "three decimals with a comma": (["0,040", "1,080"], [0.04, 1.08], False),
    "thousands between small ones": (["998", "999", "1.000"], [998, 999, 1000], True),
    "the marks of other cells": (["0.5", "1,234"], [0.5, 1234], False),
    "the same the other way round": (["0,5", "1.234"], [0.5, 1234], False),
    "one of two numbers": (["1,234", "5"], [NAN, 5], False),
    "marks that could each be either": (["1,234", "5.678"], [NAN, NAN], False),
    "both kinds in one column": (["1,234.5", "1.234,5"], [NAN, NAN], False),
    "words": (["five", "5"], [NAN, 5], False),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_read_as_they_were_meant(name: str) -> None:
    cells, wanted, whole = NUMBERS[name]
    np.testing.assert_array_equal(read_numbers(pd.Series(cells), whole), wanted)


def test_dates_are_known() -> None:
    dates = [
        "2024-05-01",
        "01.05.2024",
        "5/1/24",
        "5-Jan",
        "Jan-05",
        "1. Mai",
        "2024-05-01 00:00:00",
    ]
    assert [is_date(cell) for cell in dates] == [True] * len(dates)
    assert [is_date(cell) for cell in ("1.5", "12", "1.234,5", "-3", "calm", "3-4")] == [False] * 6
