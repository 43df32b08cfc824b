"""Files that were damaged on the disk: named, and made again where the store can do so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from conftest import MICRO, clipaffect, result_files, snakemake

RESULTS = Path("results/micro")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_damage_in_the_store_changes_no_result(micro_copy: Path) -> None:
    before = result_files(micro_copy / RESULTS)
    damaged = []
    for kind, name, damage in (
        ("detections", "detections.parquet", flip),
        ("frames", "frames.parquet", halve),
        ("embeddings", "features.npy", flip),
        ("heads", "head.safetensors", flip),
        ("heads", "history.parquet", empty),
        ("heads", "record.json", halve),
    ):
        found = sorted((micro_copy / "store" / kind).glob(f"*/*/{name}"))
        path = next(path for path in found if path.parent not in damaged)
        damage(path)
        damaged.append(path.parent)
    shutil.rmtree(micro_copy / RESULTS)
    snakemake(micro_copy, *MICRO)
    assert result_files(micro_copy / RESULTS) == before
    logs = "".join(path.read_text() for path in (micro_copy / "logs").rglob("*.log"))
    assert all(entry.name in logs for entry in damaged)
    assert len(list((micro_copy / "store/damaged").iterdir())) == len(damaged)
    checked = clipaffect("store", "verify", folder=micro_copy)
    assert checked.returncode == 0, checked.stdout
    assert ", 0 damaged" in checked.stdout


# A rule that reads damaged files, what it makes, and the files; from the last rule to the first,
# because a failed job deletes its outputs.
READ_BY = {
    "build_report": ("report/index.html", {"evaluation/AU/resolution.json": empty}),
    "compare_heads": (
        "evaluation/EXPR/intervals.parquet",
        {"evaluation/EXPR/clusters.parquet": halve},
    ),
    "postprocess_scores": (
        "postprocess/EXPR/steps.parquet",
        {"evaluation/EXPR/scores.parquet": flip},
    ),
    "evaluate_heads": (
        "evaluation/{task}/metrics.parquet",
        {"models/EXPR/0/heads.safetensors": flip, "models/AU/1/heads.parquet": halve},
    ),
    "train_heads": (
        "models/{task}/0/heads.parquet",
        {"tables/micro/EXPR/features.npy": flip, "tables/micro/AU/rows.parquet": flip},
    ),
    "build_table": (
        "tables/micro/{task}/rows.parquet",
        {"dataset/labels/EXPR.parquet": halve, "dataset/labels/AU.parquet": empty},
    ),
    "embed_faces": ("embeddings/micro/0000.parquet", {"faces/0000.parquet": flip}),
}


def test_a_damaged_result_is_named(micro_copy: Path) -> None:
    """By the job that reads it, without a traceback."""
    for rule, (made, damaged) in READ_BY.items():
        kept = {}
        for name, damage in damaged.items():
            path = micro_copy / RESULTS / name
            kept[path] = (path.read_bytes(), path.stat().st_mtime_ns)
            damage(path)
        targets = [RESULTS / made.format(task=task) for task in ("EXPR", "AU")[: len(damaged)]]
        failed = snakemake(
            micro_copy,
            *map(str, targets),
            *MICRO,
            *("--forcerun", rule, "--keep-going", "--rerun-triggers", "mtime"),
            check=False,
        )
        assert failed.returncode, rule
        for path, (whole, time) in kept.items():
            name = path.relative_to(micro_copy).as_posix()
            assert name in failed.stdout + failed.stderr, (rule, failed.stderr[-3000:])
            path.write_bytes(whole)
            os.utime(path, ns=(time, time))
        assert "Traceback" not in failed.stderr
        assert "damaged" in failed.stderr
