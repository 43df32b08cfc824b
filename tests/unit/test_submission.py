"""The validator against broken files: each names its first wrong line."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipaffect.core.errors import UserError
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.submission.check_submission import check_submission

EXPR_HEADER = "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
AU_HEADER = "image_location,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
BITS = "0,1,0,0,0,0,0,0,0,0,0,1"


def lines(task: Task, count: int = 5) -> list[str]:
    header, value = (AU_HEADER, BITS) if task.multilabel else (EXPR_HEADER, "3")
    return [header, *(f"1-30-1280x720_left/{k:05d}.jpg,{value}" for k in range(1, count + 1))]


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda t: t.name)
def test_a_right_file_passes(task: Task, tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", lines(task))
    found = check_submission(path, task, path)
    assert (found.rows, found.people) == (5, 1)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").rstrip(b"\r\n"))
    assert check_submission(path, task).rows == 5


FAULTS = {
    "header": (EXPR, 1, lambda r: [r[0].replace("Fear,", ""), *r[1:]], "wrong header"),
    "other task's header": (EXPR, 1, lambda r: [AU_HEADER, *r[1:]], "the file is for AU"),
    "no header": (EXPR, 1, lambda r: r[1:], "wrong header"),
    "only header": (EXPR, 2, lambda r: r[:1], "no rows below the header"),
    "class too high": (EXPR, 4, lambda r: [*r[:3], r[3][:-1] + "8", *r[4:]], "from 0 to 7"),
    "negative": (EXPR, 4, lambda r: [*r[:3], r[3][:-1] + "-1", *r[4:]], "from 0 to 7"),
    "fraction": (EXPR, 4, lambda r: [*r[:3], r[3] + ".0", *r[4:]], "'3.0'"),
    "space": (EXPR, 4, lambda r: [*r[:3], r[3][:-1] + " 3", *r[4:]], "without spaces"),
    "no value": (
        EXPR,
        2,
        lambda r: [r[0], r[1].split(",")[0], *r[2:]],
        "wrong number of values: 0",
    ),
    "scores": (
        EXPR,
        2,
        lambda r: [r[0], r[1] + ",0,0,0,0,0,0,0", *r[2:]],
        "wrong number of values: 8",
    ),
    "twice": (EXPR, 5, lambda r: [*r[:4], r[2], *r[5:]], "repeats line 3"),
    "no frame": (EXPR, 3, lambda r: [*r[:2], "1-30/00000.jpg,3", *r[3:]], "is not an image name"),
    "path": (EXPR, 3, lambda r: [*r[:2], "a/b/00001.jpg,3", *r[3:]], "is not an image name"),
    "empty line": (EXPR, 3, lambda r: [*r[:2], "", *r[2:]], "the line is empty"),
    "eleven units": (AU, 6, lambda r: [*r[:5], r[5][:-2]], "wrong number of values: 11"),
    "two": (AU, 6, lambda r: [*r[:5], r[5][:-1] + "2"], "'2' for AU26"),
    "probability": (AU, 6, lambda r: [*r[:5], r[5].replace(",1,", ",0.7,", 1)], "'0.7' for AU2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_wrong_line_is_named(fault: str, tmp_path: Path) -> None:
    task, number, change, words = FAULTS[fault]
    path = write(tmp_path / "p.txt", change(lines(task)))
    with pytest.raises(UserError) as caught:
        check_submission(path, task)
    assert f"line {number}" in caught.value.where
    assert words in str(caught.value)


def test_rows_of_the_sample_file(tmp_path: Path) -> None:
    sample = write(tmp_path / "sample.txt", lines(EXPR))
    path = write(tmp_path / "p.txt", [*lines(EXPR)[:3], *lines(EXPR)[4:]])
    with pytest.raises(UserError, match=r"1 rows of the sample file .* '.*00003.jpg' .line 4"):
        check_submission(path, EXPR, sample)
    path = write(tmp_path / "p.txt", lines(EXPR, 6))
    with pytest.raises(UserError, match="line 7") as caught:
        check_submission(path, EXPR, sample)
    assert "not a row of" in str(caught.value)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(EXPR_HEADER.encode() + b"\n\xff\xfe,0\n")
    with pytest.raises(UserError, match="line 2: the line is not UTF-8"):
        check_submission(path, EXPR)


def test_invisible_faults_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", ["\ufeff" + lines(EXPR)[0], *lines(EXPR)[1:]])
    with pytest.raises(UserError, match="a byte-order mark"):
        check_submission(path, EXPR)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="line 1: wrong header ''"):
        check_submission(path, EXPR)


def test_the_sample_file_is_read_as_the_run_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", lines(EXPR))
    sample = write(tmp_path / "s.txt", [row.replace(",3", " ,") for row in lines(EXPR)] + [""])
    assert check_submission(path, EXPR, sample).rows == 5
    sample = write(tmp_path / "s.txt", lines(EXPR)[1:])
    with pytest.raises(UserError, match="not the name of a video"):
        check_submission(path, EXPR, sample)
    with pytest.raises(UserError, match="the file is for AU"):
        check_submission(path, EXPR, write(tmp_path / "s.txt", lines(AU)))
