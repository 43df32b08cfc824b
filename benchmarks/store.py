"""What the store's digests and syncs cost a run with many entries.

    python benchmarks/store.py
    python benchmarks/store.py --smoke          # few entries: does it run?

Takes some seconds to a minute, depending on the disk. An entry is 512 features of ViT-L/14, the
usual size of an embedding entry. The entries lie in the folder where the benchmark is called. The
reference, in the same run and in alternation, writes the same files without digest and sync.
Making an entry takes at least a third of a second of other work (512 crops on a fast GPU); shares
are relative to that. Prints a table, and a JSON object as its last line.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from clipaffect.core.hashing import canonical_json, digest
from clipaffect.core.store import Store

SMOKE = "--smoke" in sys.argv
ENTRIES, REPEATS = (5, 1) if SMOKE else (2_000, 5)
WORK = 1 / 3  # seconds of other work for an entry, at least
FEATURES = np.random.default_rng(0).normal(size=(512, 768)).astype(np.float16)


def fill(folder: Path) -> None:
    """Write an entry's file."""
    np.save(folder / "features.npy", FEATURES)


def plain(root: Path, keys: list[dict[str, int]]) -> None:
    """The reference: key and files in a folder that is renamed."""
    for key in keys:
        name = digest({"kind": "embeddings", **key})
        entry = root / "embeddings" / name[:2] / name
        partial = entry.with_suffix(".part")
        partial.mkdir(parents=True)
        fill(partial)
        (partial / "key.json").write_text(canonical_json(key))
        partial.rename(entry)


def stored(root: Path, keys: list[dict[str, int]]) -> None:
    """The store: digests, locks, and a thread that syncs; returns when all is on the disk."""
    store = Store(root)
    for key in keys:
        store.get_or_make("embeddings", key, fill)
    store.close()


def used(root: Path, keys: list[dict[str, int]]) -> None:
    """Use finished entries, as a later process does: every file is hashed."""
    store = Store(root)
    for key in keys:
        store.get_or_make("embeddings", key, fill)


def main() -> None:
    """Measure and print."""
    wall: dict[str, list[float]] = {"plain": [], "stored": [], "used": []}
    cpu: dict[str, list[float]] = {"plain": [], "stored": [], "used": []}
    count = ENTRIES // REPEATS
    with tempfile.TemporaryDirectory(dir=".") as name:
        for repeat in range(REPEATS):
            keys = [{"n": repeat * count + k} for k in range(count)]
            for measured, function, root in (
                ("plain", plain, "plain"),
                ("stored", stored, "store"),
                ("used", used, "store"),
            ):
                began, began_cpu = time.perf_counter(), time.process_time()
                function(Path(name) / root, keys)
                wall[measured].append((time.perf_counter() - began) / count)
                cpu[measured].append((time.process_time() - began_cpu) / count)
    median = {key: float(np.median(values)) for key, values in wall.items()}
    median_cpu = {key: float(np.median(values)) for key, values in cpu.items()}
    figures = {
        "cpu_share_of_a_run": (median_cpu["stored"] - median_cpu["plain"]) / WORK,
        "disk_share_of_a_run": median["stored"] / WORK,
        "ms_cpu_stored": 1e3 * median_cpu["stored"],
        "ms_cpu_plain": 1e3 * median_cpu["plain"],
        "ms_used": 1e3 * median["used"],
    }
    table = Table(title=f"{ENTRIES:,} entries of {FEATURES.nbytes / 1e6:.2f} MB")
    for column in ("", "ms wall", "ms CPU"):
        table.add_column(column, justify="right" if column else "left")
    for key, what in (
        ("plain", "written without digest and sync"),
        ("stored", "written to the store and synced"),
        ("used", "used from the store"),
    ):
        table.add_row(what, f"{1e3 * median[key]:.1f}", f"{1e3 * median_cpu[key]:.2f}")
    Console().print(table)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
