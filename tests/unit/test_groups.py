"""A table with columns of the user's own for each file, and the rates of change of people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipaffect.core.errors import UserError
from clipaffect.prediction.analysis_tables import mean_change
from clipaffect.prediction.groups import read_groups

FILES = ["a/one.mp4", "two.mov"]


def write(folder: Path, text: str) -> Path:
    path = folder / "groups.csv"
    path.write_text(text)
    return path


def test_a_point_in_a_name_is_no_suffix(tmp_path: Path) -> None:
    path = write(tmp_path, "file,c\nP1.5,a\nP1,b\nvid.avi,c\n")
    groups = read_groups(path, ["P1.5.mp4", "P1.mp4", "vid.mp4", "vid.avi"], [])
    files = ["P1.5.mp4", "P1.mp4", "vid.avi", "vid.mp4"]
    assert groups.of(files) == {"c": ["a", "b", "c", None]}
    with pytest.raises(UserError, match=r"'vid' may be vid\.mp4 or vid\.avi"):
        read_groups(write(tmp_path, "file,c\nvid,a\n"), ["vid.mp4", "vid.avi"], [])


def test_files_are_joined_with_or_without_a_suffix(tmp_path: Path) -> None:
    path = write(tmp_path, "file,condition,age\na/one,film,31\ntwo.mov,rest,27\n")
    groups = read_groups(path, [*FILES, "three.mp4"], ["video"])
    found = groups.of(["two.mov", "three.mp4", "a/one.mp4"])
    assert found == {"condition": ["rest", None, "film"], "age": ["27", None, "31"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video,condition\nx,y\n", "no column 'file'"),
        ("file,person\ntwo,1\n", "already have a column 'person'"),
        ("file,c\ntwo,1\ntwo.mov,2\n", "'two.mov' has two rows"),
        ("file,c\ntwo,1\nthree,2\nfour,3\n", "2 of 3 files .* such as three, four"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_groups(write(tmp_path, text), FILES, ["person"])


def test_changes_are_per_second_and_not_over_gaps() -> None:
    times = np.array([0.0, 0.1, 0.2, 5.0, 5.1])
    values = np.array([0.0, 0.2, 0.1, 0.9, 0.8])
    assert mean_change(times, values) == pytest.approx((0.2 + 0.1 + 0.1) / 0.3)
    assert np.isnan(mean_change(times[:1], values[:1]))
