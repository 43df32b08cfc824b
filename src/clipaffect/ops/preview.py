"""Say what a run would do, from Snakemake's dry run: the jobs of each stage, and why they run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from clipaffect.config.models import Config
from clipaffect.core.errors import UserError
from clipaffect.core.layout import Layout
from clipaffect.ops.expected_time import Expected
from clipaffect.ops.run_display import in_words, is_target, job_count
from clipaffect.report.compare_runs import change_in_words, changed_values, flatten
from clipaffect.report.run_record import read_record

JOBS = re.compile(r"^(\w+)\s+(\d+)$", re.MULTILINE)  # lines of Snakemake's table of jobs
NOTHING = "Nothing to be done"


def snakemake_command(arguments: list[str]) -> list[str]:
    """The command that runs Snakemake with the current Python interpreter."""
    return [sys.executable, "-m", "snakemake", *arguments]


def planned_jobs(configfile: Path) -> dict[str, int] | None:
    """The number of jobs of a run by rule, from Snakemake; None without a Snakefile."""
    if not Path("Snakefile").is_file():
        return None
    done = _dry_run(["--cores", "1", "--configfile", str(configfile)])
    if NOTHING in done.stdout + done.stderr:
        return {}
    return _jobs_in(done.stdout)


def preview(arguments: list[str], config: Config | None, cores: int | None) -> int:
    """Print the jobs that a run would start, by stage, and the settings that have changed.

    Args:
        arguments: Snakemake's, with those of a dry run.
        config: of the run; None if its results are not known.
        cores: that the run would use; None on a cluster, whose queue cannot be foreseen.

    Returns:
        Snakemake's exit code.
    """
    done = _dry_run(arguments)
    jobs = _jobs_in(done.stdout)
    if NOTHING in done.stdout + done.stderr:
        print("Nothing would run: all results are up to date.")
    elif done.returncode or jobs is None:
        print(done.stdout + done.stderr, end="")
    else:
        stages = {rule: count for rule, count in jobs.items() if not is_target(rule)}
        print(f"{job_count(sum(stages.values()))} would run:")
        width = max(map(len, stages), default=0)
        for rule, count in stages.items():
            print(f"  {in_words(rule):<{width}}  {count}")
        if config is not None:
            layout = Layout(Path("results") / config.run)
            if cores and (how_long := Expected(str(layout.timings), cores).in_words(jobs)):
                print(how_long)
            if changed := list(_changed(config)):
                print(f"changed since {layout.folder} was made:")
                print("\n".join(f"  {line}" for line in changed))
        print(
            "Work that is in the store is used again: a job computes only what is missing.\n"
            "Snakemake's reason for each job: add --verbose"
        )
    return done.returncode


def _dry_run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = snakemake_command(["--dry-run", "--quiet", "reason", "--nolock", *arguments])
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _jobs_in(text: str) -> dict[str, int] | None:
    """The jobs by rule in the output of a dry run; None without a table of them."""
    if "Job stats:" not in text:
        return None
    listed = text.split("Job stats:")[1].split("total", maxsplit=1)[0]
    return {rule: int(count) for rule, count in JOBS.findall(listed) if rule != "all"}


def _changed(config: Config) -> Iterator[str]:
    """The settings that are not those of the results' report; none without a report."""
    try:
        record = read_record(Layout(Path("results") / config.run).folder)
    except UserError:
        return
    before, now = flatten(record["config"]), flatten(config.settings())
    # A key of another version is as good as one that is not set.
    before, now = dict.fromkeys(now) | before, dict.fromkeys(before) | now
    yield from map(change_in_words, changed_values(before, now))
