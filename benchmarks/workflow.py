"""The cost of the workflow itself at the full size of Aff-Wild2.

    python benchmarks/workflow.py
    python benchmarks/workflow.py --smoke       # a small tree: does it run?

Takes about 8 minutes on 2 cores, mostly to create and remove a tree of the right structure: 594
folders, 2.94 million empty images and annotations of the published size (one inode per image,
200 MB of disk). Prints a table, and a JSON object of named figures as its last line.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.dataset.readers.aff_wild2 import FOLDERS as ANNOTATED

ROOT = Path(__file__).parents[1]
SMOKE = "--smoke" in sys.argv
FOLDERS, IMAGES = (594, 6_000) if SMOKE else (594, 2_940_000)
# files and labelled rows of each annotation folder, as published; the rest of the rows are -1
ANNOTATIONS: tuple[tuple[Task, str, int, int], ...] = (
    (EXPR, "Train_Set", 248, 597_361),
    (EXPR, "Validation_Set", 70, 284_230),
    (AU, "Train_Set", 295, 1_359_523),
    (AU, "Validation_Set", 105, 445_845),
)


def make_tree(root: Path) -> None:
    """Folders of empty images in two roots, and annotations."""
    rng = np.random.default_rng(0)
    sizes = rng.dirichlet(np.full(FOLDERS, 2.0)) * IMAGES
    lengths = {f"{k}-30-1280x720": int(size) + 1 for k, size in enumerate(sizes)}
    for number, (name, length) in enumerate(lengths.items()):
        root_name = "cropped_aligned" if number < FOLDERS - 50 else "cropped_aligned_new_50_vids"
        folder = root / root_name / name
        folder.mkdir(parents=True)
        descriptor = os.open(folder, os.O_RDONLY)
        for frame in range(1, length + 1):
            os.close(os.open(f"{frame:05d}.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        os.close(descriptor)
    names = list(lengths)
    for task, split, files, labelled in ANNOTATIONS:
        folder = root / "annotations" / ANNOTATED[task.name][0] / split
        folder.mkdir(parents=True)
        start = 0 if split == "Train_Set" else 300
        chosen = names[start : start + files]
        total = sum(lengths[name] for name in chosen)
        high = 2 if task.multilabel else len(task.targets)
        for name in chosen:
            rows = rng.integers(0, high, (lengths[name], len(task.columns)))
            rows[rng.uniform(size=len(rows)) > labelled / total] = -1
            text = "\n".join(",".join(map(str, row)) for row in rows.tolist())
            (folder / f"{name}.txt").write_text(f"{task.header}\n{text}\n")


def timed(folder: Path, *command: str) -> tuple[float, float, str]:
    """Seconds, peak gigabytes and output of a command."""
    script = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
        "print('RSS', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
        "sys.exit(done.returncode)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "160", "PYTHONPATH": str(ROOT / "src")},
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    rss = int(re.findall(r"RSS (\d+)", done.stdout)[-1])
    return seconds, rss / 1e6, done.stdout


def main() -> None:
    """Run everything and print the table and the figures."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder = Path(tempfile.mkdtemp(prefix="clipaffect-benchmark-"))
    try:
        for name in ("Snakefile", "workflow", "config", "src", "profiles"):
            (folder / name).symlink_to(ROOT / name)
        started = time.perf_counter()
        make_tree(folder / "data/aff-wild2")
        made = time.perf_counter() - started
        config = yaml.safe_load((ROOT / "config/aff-wild2.yaml").read_text())
        (folder / "full.yaml").write_text(yaml.safe_dump(config))
        snakemake = (sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "full.yaml")
        if not SMOKE:
            timed(folder, *snakemake, "--dry-run", "--quiet", "all")  # compiles Python's files
        repeats = range(1 if SMOKE else 3)
        dry = [timed(folder, *snakemake, "--dry-run", "--quiet", "reason") for _ in repeats]
        jobs = int(re.findall(r"^total\s+(\d+)", dry[0][2], re.MULTILINE)[0])
        clipaffect = (sys.executable, "-m", "clipaffect")
        measured = ("--no-measure",) if SMOKE else ()
        check, check_rss, _ = timed(folder, *clipaffect, "check", "full.yaml", *measured)
        plain, _, _ = timed(folder, *clipaffect, "check", "full.yaml", "--no-measure")
        index, index_rss, _ = timed(folder, *snakemake, "--until", "index_dataset", "-q", "all")
    finally:
        shutil.rmtree(folder)
    figures = {
        "dry_run_s_full": sorted(seconds for seconds, _, _ in dry)[len(dry) // 2],
        "jobs_full": jobs,
        "index_minutes_full": index / 60,
        "index_rss_gb_full": index_rss,
        "check_s_full": check,
        "check_rss_gb_full": check_rss,
    }
    table = Table("measured", f"{FOLDERS} folders, {IMAGES:,} images")
    table.add_row("making the tree", f"{made:.0f} s")
    table.add_row(f"dry run, {jobs} jobs", f"{figures['dry_run_s_full']:.1f} s")
    table.add_row("index", f"{index:.0f} s, {index_rss:.2f} GB")
    table.add_row("clipaffect check", f"{check:.0f} s, {check_rss:.2f} GB")
    table.add_row("clipaffect check --no-measure", f"{plain:.0f} s")
    Console().print(table)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
