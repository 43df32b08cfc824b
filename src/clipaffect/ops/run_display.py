"""What a run shows on the terminal: a line for each stage, with its progress and the time left.

Progress comes from the number of finished jobs and from the logs of the running ones, which
``core.progress`` writes. Without a terminal, the running stages are told once a minute.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clipaffect.core.progress import duration

LINE_EVERY = 60.0  # seconds, without a terminal
TAIL = 4096  # bytes of a log's end that are read
LAST_LINES = 12  # of a failed job's log
PROGRESS = re.compile(r"^(.+): (\d+)/(\d+), [\d.]+/s, .+ left$", re.MULTILINE)
# Beginnings of Snakemake's messages: behind failed jobs, before one, and what is always shown.
CLOSING = ("Exiting because a job execution failed", "WorkflowError:\nAt least one job")
OF_A_JOB = ("RuleException", "CalledProcessError")
SHOWN = (
    "Trying to restart",
    "Nothing to be done",
    "Creating conda",
    "Pulling",
    "Will exit",
    "Terminating",
    "Unlock",
)
TARGETS = ("all", "model", "studies", "predict")  # rules that only name what is to be made
METRICS = {"macro_f1": "macro F1"}
# How Snakemake says that a job's shell was ended; 128 and more are signals.
EXIT = re.compile(r"returned non-zero exit status (\d+)")
SIGNALS, KILLED = 128, 9
STOPPED = (2, 15)  # the user, or the machine, ended the run: SIGINT and SIGTERM
LEVEL = 30  # logging.WARNING


@dataclass(frozen=True)
class Job:
    """A job of a stage, with its log if it has one."""

    stage: str
    log: Path | None


@dataclass
class Stage:
    """The jobs of one rule.

    Attributes:
        total: jobs that will run.
        done: jobs that have finished.
        running: by number.
        counts: what the finished jobs have counted, by unit.
        started: seconds, on the display's clock; None before the first job.
    """

    total: int = 0
    done: int = 0
    running: dict[int, Job] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    started: float | None = None

    def share(self) -> float:
        """The share of its work that is done, from 0 to 1."""
        parts = [counted(job.log) for job in self.running.values()]
        running = sum(done / max(total, 1) for _, done, total in parts)
        return min((self.done + running) / max(self.total, 1), 1.0)


def counted(log: Path | None) -> tuple[str, int, int]:
    """Unit, count and total of the last line of progress in a log; no unit without one."""
    found = PROGRESS.findall(_tail(log))
    unit, done, total = found[-1] if found else ("", 0, 0)
    return unit, int(done), int(total)


def _tail(log: Path | None) -> str:
    """The end of a log; empty if there is none."""
    try:
        with open(log or "", "rb") as file:  # noqa: PTH123 - an empty name is no folder
            file.seek(0, 2)
            file.seek(max(file.tell() - TAIL, 0))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def scores_in_words(metrics: dict[str, Any]) -> Iterator[str]:
    """A line for each task of a report's ``metrics.json``."""
    for task, found in metrics["tasks"].items():
        score, metric = (found["headline"] or {}).get("mean"), found["metric"]
        line = "no score" if score is None else f"{METRICS.get(metric, metric)} {score:.3f}"
        interval = found["interval"]
        if None not in interval:
            line += f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
        elif score is not None:
            line += " (too few people for an interval)"
        after = (found.get("postprocessed") or {}).get("macro_f1")
        if after is not None:
            line += f", after post-processing {after:.3f}"
        yield f"{task}:  {line}"


def in_words(rule: str) -> str:
    """A rule's name as words."""
    return rule.replace("_", " ")


class RunDisplay:
    """Shows a run on ``console``; call ``close`` at the end."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.began = clock()
        self.stages: dict[str, Stage] = {}
        self.jobs: dict[int, Job] = {}
        self.exit_status = 0  # of the job that failed last
        self.held_back = ""  # Snakemake's words on it, until it is told as failed
        self._lock = threading.RLock()
        self.live: Live | None = None
        self._closed = threading.Event()

    def planned(self, counts: dict[str, int], how_long: str = "") -> None:
        """Say what will run.

        Args:
            counts: the number of jobs by rule.
            how_long: it will take, in words; empty if that is unknown.
        """
        jobs = {rule: count for rule, count in counts.items() if is_work(rule)}
        for rule, count in jobs.items():
            self.stages.setdefault(rule, Stage()).total = count
        stages = f"{len(jobs)} stage{'s' if len(jobs) != 1 else ''}"
        names = ", ".join(map(in_words, jobs))
        self._print(f"{job_count(sum(jobs.values()))} in {stages}: {names}")
        if how_long:
            self._print(how_long)
        if self.live is None and self.console.is_terminal:
            self.live = Live(
                get_renderable=self._running, console=self.console, refresh_per_second=2
            )
            self.live.start()
        elif not self.console.is_terminal:
            threading.Thread(target=self._tell, daemon=True).start()

    def started(self, number: int, rule: str, logs: Sequence[str]) -> None:
        """A job runs, or waits on a cluster."""
        if is_target(rule):
            return
        with self._lock:
            job = self.jobs[number] = Job(rule, Path(logs[0]) if logs else None)
            stage = self.stages.setdefault(rule, Stage())
            stage.running[number] = job
            if stage.started is None:
                stage.started = self.clock()

    def finished(self, number: int) -> None:
        """A job has finished; the last one of a stage is told."""
        with self._lock:
            job = self.jobs.get(number)
            stage = self.stages.get(job.stage) if job is not None else None
            if job is None or stage is None:
                return
            stage.running.pop(number, None)
            stage.done += 1
            unit, count, _ = counted(job.log)
            if count:
                stage.counts[unit] += count
            if stage.done < stage.total:
                return
            took = duration(self.clock() - (stage.started or self.began))
            work = [f"{count:,} {unit}" for unit, count in stage.counts.items()]
            about = ", ".join([*work, *([job_count(stage.done)] if stage.done > 1 else []), took])
        self._print(f"done  {in_words(job.stage)}  ({about})")

    def failed(self, job: int, rule: str, logs: Sequence[str], message: str | None = None) -> None:
        """A job has failed: say where, and show the end of its log."""
        with self._lock:
            self.stages.get(rule, Stage()).running.pop(job, None)
            status, self.exit_status, self.held_back = self.exit_status, 0, ""
        if status - SIGNALS in STOPPED:
            self._print(f"stopped  {in_words(rule)}")
            return
        self._print(f"FAILED  {in_words(rule)}", style="bold red")
        if message:
            self._print(message)
        if status > SIGNALS:
            number = status - SIGNALS
            why = "; often because the machine ran out of memory" if number == KILLED else ""
            self._print(f"the job was killed by signal {number}{why}")
        for log in map(Path, logs):
            lines = _tail(log).splitlines()[-LAST_LINES:]
            if lines:
                self._print(f"the last lines of {log}:")
                self._print("\n".join(f"  {line}" for line in lines))
                return
        self._print(f"the job's log is empty: {', '.join(logs)}" if logs else "the job has no log")

    def said(self, level: int, text: str) -> None:
        """A message of Snakemake: shown if it is a warning, or says what takes long."""
        if level >= LEVEL and text.startswith(CLOSING):
            return  # the failed jobs have been shown
        self._tell_held_back()
        if text.startswith(OF_A_JOB) and (found := EXIT.search(text)):
            self.exit_status, self.held_back = int(found[1]), text  # the job is told as failed next
        elif level >= LEVEL or text.startswith(SHOWN):
            self._print(text.strip())

    def _tell_held_back(self) -> None:
        """Show words on a failure that no failed job has followed."""
        with self._lock:
            text, self.held_back = self.held_back, ""
        if text:
            self._print(text.strip())

    def close(self) -> None:
        """End the display."""
        self._tell_held_back()
        self._closed.set()
        if self.live is not None:
            self.live.stop()
            self.live = None

    def lines(self) -> list[tuple[str, str, str, str]]:
        """The running stages: name, finished jobs, progress of a job, and time left."""
        with self._lock:
            stages = [
                (rule, replace(stage, running=dict(stage.running)))
                for rule, stage in self.stages.items()
                if stage.running
            ]
        found = []
        for rule, stage in stages:
            unit, done, total = counted(next(iter(stage.running.values())).log)
            share, passed = stage.share(), self.clock() - (stage.started or self.began)
            left = f"{duration(passed * (1 - share) / share)} left" if share > 0 else ""
            jobs = f"{stage.done}/{stage.total}" if stage.total > 1 else ""
            work = f"{done:,} of {total:,} {unit}" if unit else ""
            found.append((in_words(rule), jobs, work, left))
        return found

    def _running(self) -> Table:
        table = Table.grid(padding=(0, 2), expand=False)
        for line in self.lines():
            table.add_row(*line)
        stages = list(self.stages.values())
        done, total = sum(stage.done for stage in stages), sum(stage.total for stage in stages)
        table.add_row(f"{done} of {job_count(total)}", "", duration(self.clock() - self.began), "")
        return table

    def _tell(self) -> None:
        while not self._closed.wait(LINE_EVERY):
            self.tell()

    def tell(self) -> None:
        """Print the running stages as one line."""
        running = [", ".join(part for part in line if part) for line in self.lines()]
        if running:
            self._print(f"{duration(self.clock() - self.began)}: {'; '.join(running)}")

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style), soft_wrap=True)


def is_target(rule: str) -> bool:
    """Whether a rule only names what is to be made."""
    return rule in TARGETS or rule.endswith("_all")


def is_work(rule: str) -> bool:
    """Whether a line of Snakemake's table of jobs is a rule that does something."""
    return rule != "total" and not is_target(rule)


def job_count(count: int) -> str:
    """A number of jobs in words."""
    return f"{count} job{'s' if count != 1 else ''}"
