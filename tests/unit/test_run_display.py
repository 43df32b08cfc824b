"""What `clipaffect run` shows of Snakemake's events."""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path

import pytest
from conftest import ROOT
from rich.console import Console

from clipaffect.core.progress import duration
from clipaffect.ops.expected_time import START, UNTIMED, Expected, last_seconds
from clipaffect.ops.run_display import RunDisplay, scores_in_words

COUNTS = {"embed_faces": 4, "train_heads": 1, "model": 1, "total": 6}


class Shown:
    """A display on a text file, with a clock that is set."""

    def __init__(self) -> None:
        self.file, self.now = io.StringIO(), 0.0
        console = Console(file=self.file, width=80, force_terminal=False)
        self.display = RunDisplay(console, lambda: self.now)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


@pytest.fixture
def shown() -> Shown:
    made = Shown()
    made.display.planned(COUNTS)
    return made


def log(tmp_path: Path, *lines: str) -> list[str]:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
    path.write_text("\n".join(lines) + "\n")
    return [str(path)]


def test_rules_without_times_do_not_hide_how_long_a_run_takes(tmp_path: Path) -> None:
    """Those that have no benchmark file in the workflow, but for downloads."""
    untimed = {
        name
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for name, body in re.findall(
            r"(?ms)^rule (\w+):\n(.*?)(?=^rule |^use rule |\Z)", path.read_text()
        )
        if "command(" in body and "benchmark:" not in body
    }
    assert untimed - {"fetch_asset", "fetch_weights"} == set(UNTIMED)


def test_a_stopped_job_has_not_failed(shown: Shown) -> None:
    shown.display.started(1, "embed_faces", [])
    shown.display.said(
        40, "RuleException:\nCalledProcessError ... returned non-zero exit status 130."
    )
    shown.display.failed(1, "embed_faces", [])
    assert shown.lines[1:] == ["stopped  embed faces"]


def test_a_stage_has_one_line_with_its_counts_and_time(shown: Shown, tmp_path: Path) -> None:
    assert shown.lines == ["5 jobs in 2 stages: embed faces, train heads"]
    for number in range(4):
        shown.now = 10.0 * number
        logs = log(tmp_path, "crops: 500/1000, 9.1/s, 55 s left", "crops: 1000/1000, 9/s, 0 s left")
        shown.display.started(number, "embed_faces", logs)
        shown.display.finished(number)
    shown.now = 45
    shown.display.started(4, "train_heads", [])
    shown.now = 110
    shown.display.finished(4)
    shown.display.started(5, "model", [])  # makes nothing itself
    shown.display.finished(5)
    assert shown.lines[1:] == [
        "done  embed faces  (4,000 crops, 4 jobs, 30 s)",
        "done  train heads  (1 min 5 s)",
    ]


def test_the_time_left_comes_from_jobs_and_their_logs(shown: Shown, tmp_path: Path) -> None:
    display = shown.display
    display.started(0, "embed_faces", [])
    display.finished(0)
    display.started(1, "embed_faces", log(tmp_path, "noise", "crops: 400/800, 8.0/s, 50 s left"))
    shown.now = 60  # 1.5 of 4 jobs are done
    assert display.lines() == [("embed faces", "1/4", "400 of 800 crops", "1 min 40 s left")]
    display.tell()
    assert shown.lines[-1] == "1 min 0 s: embed faces, 1/4, 400 of 800 crops, 1 min 40 s left"
    display.finished(1)
    assert display.lines() == []


def test_a_failed_job_shows_the_end_of_its_log(shown: Shown, tmp_path: Path) -> None:
    logs = log(tmp_path, *(f"line {k}" for k in range(40)))
    shown.display.started(0, "train_heads", logs)
    said = "RuleException:\nCalledProcessError in file 'x':\nreturned non-zero exit status 137."
    shown.display.said(40, said)
    shown.display.failed(0, "train_heads", logs)
    shown.display.said(40, "Exiting because a job execution failed.")
    text = "\n".join(shown.lines[1:])
    assert text.startswith("FAILED  train heads\nthe job was killed by signal 9")
    assert logs[0] in text
    assert "line 39" in text
    assert "line 10\n" not in text
    assert "Exiting" not in text
    # What fails later is said, too: another kind of error, and words that no failed job follows.
    shown.display.said(20, "Trying to restart job 0.")
    shown.display.said(40, "MissingOutputException in rule x")
    shown.display.said(40, said)
    shown.display.close()
    expected = ["Trying to restart job 0.", "MissingOutputException in rule x", *said.splitlines()]
    assert shown.lines[-5:] == expected


def test_warnings_are_shown_and_chatter_is_not(shown: Shown) -> None:
    for level, text in ((20, "Building DAG of jobs..."), (30, "a [warning]"), (40, "an error")):
        shown.display.said(level, text)
    shown.display.said(20, "Nothing to be done (all requested files are present).")
    expected = ["a [warning]", "an error", "Nothing to be done (all requested files are present)."]
    assert shown.lines[1:] == expected


def test_a_terminal_shows_the_running_stages_until_the_end() -> None:
    file = io.StringIO()
    display = RunDisplay(Console(file=file, width=80, force_terminal=True))
    display.planned(COUNTS)
    display.started(0, "embed_faces", [])
    display.live.refresh()
    assert "embed faces" in file.getvalue()
    assert "0 of 5 jobs" in file.getvalue()
    display.close()
    assert display.live is None


def test_a_run_is_expected_to_take_what_its_jobs_took(shown: Shown, tmp_path: Path) -> None:
    for rule, seconds in {
        "embed_faces/a/0": 40,
        "embed_faces/a/1": 20,
        "train_heads/0": 60,
    }.items():
        path = tmp_path / f"{rule}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tmax_rss\tcpu_time\n{seconds}\t100\t{seconds}\n")
    assert last_seconds(COUNTS, tmp_path, 2) == pytest.approx((4 * 30 + 60) / 2)
    assert last_seconds(COUNTS, tmp_path, 64) == pytest.approx(60)  # one job is not divided
    assert last_seconds(COUNTS | {"build_report": 1}, tmp_path, 2) is None
    assert last_seconds(COUNTS, tmp_path / "none", 2) is None
    shown.display.planned(COUNTS, Expected(str(tmp_path), 2).in_words(COUNTS))
    assert shown.lines[-1] == "about 1 min 30 s, based on the last run"
    # Before the first run: the measured work, and the start of each job.
    none = str(tmp_path / "none")
    assert Expected(none, 2).in_words(COUNTS) == ""
    whole = COUNTS | {"build_report": 1, "total": 7}
    assert Expected(none, 2, 60.0).in_words(whole).startswith(f"about 1 min {6 * START / 2:.0f} s,")
    assert Expected(none, 2, 60.0).in_words(COUNTS) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_are_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_scores_are_told_with_their_intervals() -> None:
    found = {
        "EXPR": {
            "metric": "macro_f1",
            "headline": {"mean": 0.4},
            "interval": [0.3, 0.5],
            "postprocessed": {"macro_f1": 0.45},
        },
        "AU": {"metric": "macro_f1", "headline": None, "interval": [None, None]},
    }
    assert list(scores_in_words({"tasks": found})) == [
        "EXPR:  macro F1 0.400 (95 % interval 0.300 to 0.500), after post-processing 0.450",
        "AU:  no score",
    ]


def test_jobs_may_come_and_go_while_the_terminal_is_drawn(shown: Shown) -> None:
    display, stop = shown.display, threading.Event()
    faults: list[Exception] = []

    def draw() -> None:
        while not stop.is_set():
            try:
                display.lines()
            except Exception as error:
                faults.append(error)

    drawing = threading.Thread(target=draw)
    drawing.start()
    for number in range(2000):
        display.started(number, "embed_faces", [])
        if number >= 40:
            display.finished(number - 40)
    stop.set()
    drawing.join()
    assert faults == []
