"""How long a run will take: by the times of its last jobs, or by a measurement before the first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from clipaffect.core.progress import duration, step
from clipaffect.ops.run_display import is_work
from clipaffect.report.show_timings import rule_times

EXPECTED = "CLIPAFFECT_EXPECTED"  # in a run's environment: an ``Expected``
START = 4.0  # seconds of a core until a job's work begins
# Rules without a benchmark file: they take seconds.
UNTIMED = ("show_timings", "export_model", "find_videos", "list_predictions")


@dataclass(frozen=True)
class Expected:
    """What tells how long a run will take.

    Attributes:
        timings: the run's folder of Snakemake's benchmark files.
        cores: that work at the same time.
        first: seconds of the work of a first run; None if it was not measured.
    """

    timings: str
    cores: int
    first: float | None = None

    def in_words(self, counts: dict[str, int]) -> str:
        """How long jobs will take, by their number for each rule; empty if that is unknown."""
        seconds = last_seconds(counts, Path(self.timings), self.cores)
        if seconds is not None:
            return f"about {duration(seconds)}, based on the last run"
        if self.first is None or "build_report" not in counts:  # it was measured for a whole run
            return ""
        jobs = sum(count for rule, count in counts.items() if is_work(rule))
        seconds = self.first + START * jobs / self.cores
        about = f"about {duration(seconds)}, estimated on this machine"
        return f"{about}; less if the store has results"


def tell(expected: Expected) -> None:
    """Put it into the environment of the processes that are started from now on."""
    os.environ[EXPECTED] = json.dumps(asdict(expected))


def told() -> Expected | None:
    """What a launcher has put into the environment."""
    try:
        return Expected(**json.loads(os.environ[EXPECTED]))
    except (KeyError, ValueError, TypeError):
        return None


def measured_seconds(configfile: Path, cores: int) -> float | None:
    """Seconds of the work of a first run, measured by ``ops.first_run``.

    None if a stage cannot be measured or takes too long, or if the data or the configuration is
    wrong, which the run itself will report.
    """
    command = [sys.executable, "-m", "clipaffect.ops.first_run", str(configfile), str(cores)]
    with step("estimating the time of a first run"):
        try:
            done = subprocess.run(command, capture_output=True, check=True)
            return float(done.stdout.split()[-1])
        except (subprocess.SubprocessError, ValueError, IndexError):
            return None


def last_seconds(counts: dict[str, int], timings: Path, cores: int) -> float | None:
    """How long jobs will take by the times of a run's last jobs; None unless all rules have some.

    Args:
        counts: the number of jobs by rule.
        timings: the run's folder of Snakemake's benchmark files.
        cores: that work at the same time.
    """
    try:
        known = {row["rule"]: row["seconds"] / row["jobs"] for row in rule_times(timings)}
    except (OSError, ValueError, KeyError):  # a file of times that was not finished
        return None
    jobs = {rule: n for rule, n in counts.items() if is_work(rule) and rule not in UNTIMED}
    if not jobs or not jobs.keys() <= known.keys():
        return None
    longest = max(known[rule] for rule in jobs)
    return max(longest, sum(known[rule] * n for rule, n in jobs.items()) / max(cores, 1))
