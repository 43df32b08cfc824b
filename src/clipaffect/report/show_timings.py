"""What the jobs of a run took, from Snakemake's benchmark files: a page beside them.

Nothing of this enters a result: times differ from run to run. A rule whose jobs did not run again
keeps the figures of its last time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from clipaffect.core.files import write_text
from clipaffect.core.parquet import open_parquet
from clipaffect.report.pages import page_environment, records


def rule_times(folder: Path) -> list[dict[str, Any]]:
    """One row for each rule: jobs, seconds of the wall clock and of the CPU, most memory in MB.

    Args:
        folder: ``results/<run>/timings``: ``<rule>.tsv``, or ``<rule>/.../<job>.tsv``.
    """
    parts = [
        pd.read_csv(path, sep="\t", na_values="-").assign(
            rule=path.relative_to(folder).with_suffix("").parts[0]
        )
        for path in sorted(folder.rglob("*.tsv"))
    ]
    if not parts:
        return []
    jobs = pd.concat(parts, ignore_index=True)
    found = jobs.groupby("rule").agg(
        jobs=("s", "size"),
        seconds=("s", "sum"),
        longest=("s", "max"),
        cpu=("cpu_time", "sum"),
        memory=("max_rss", "max"),
    )
    return records(found.sort_values("seconds", ascending=False).reset_index())


def frame_times(folder: Path) -> list[dict[str, Any]]:
    """What a million frames took of each stage that goes through all of them.

    Columns stage (for ``embed_faces`` with the encoder), frames, seconds and CPU seconds for a
    million, most memory in MB. Of stages whose jobs are not all timed there is no row.
    """
    shards = sorted((folder.parent / "frames").glob("*.parquet"))
    frames = sum(open_parquet(path).metadata.num_rows for path in shards)
    if not frames:
        return []
    places = [folder / "extract_frames", folder / "align_faces"]
    places += sorted(p for p in (folder / "embed_faces").glob("*") if p.is_dir())
    rows = []
    for place in places:
        files = [place / f"{shard.stem}.tsv" for shard in shards]
        if not all(file.exists() for file in files):
            continue
        jobs = pd.concat([pd.read_csv(file, sep="\t", na_values="-") for file in files])
        rows.append(
            {
                "stage": str(place.relative_to(folder)),
                "frames": frames,
                "seconds": float(jobs["s"].sum()) / frames * 1e6,
                "cpu": float(jobs["cpu_time"].sum()) / frames * 1e6,
                "memory": float(jobs["max_rss"].max()),
            }
        )
    return records(pd.DataFrame(rows)) if rows else []


def show_timings(run: str, folder: Path) -> None:
    """Write ``index.html`` into a run's folder of timings."""
    rows = rule_times(folder)
    page = (
        page_environment()
        .get_template("timings.html")
        .render(
            run=run,
            rows=rows,
            seconds=sum(row["seconds"] for row in rows),
            cpu=sum(row["cpu"] or 0 for row in rows),
            stages=frame_times(folder),
        )
    )
    write_text(folder / "index.html", page)
