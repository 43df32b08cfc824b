"""The training engine compared with the published loop's structure, in one run.

    python benchmarks/training.py
    python benchmarks/training.py --smoke       # small numbers: does it run?

Takes about 7 minutes on 2 cores, and 3 GB of disk in the temporary folder for a table of
Aff-Wild2's size. Prints a table, and a JSON object of named figures as its last line. Ratios are
medians over interleaved repeats. The machine may be shared, so rely on them rather than the rates.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from published_loop import PublishedLoop
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from clipaffect.config.training import Recipe, Training
from clipaffect.core.cpu import take_one_core
from clipaffect.core.parquet import write_table
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR
from clipaffect.training.backends.one_head import make_learner
from clipaffect.training.backends.stacked import Stack
from clipaffect.training.cost import executed_per_sample, matrix_peak
from clipaffect.training.data import Split, TrainingData, batches, read_split
from clipaffect.training.history import learning_rate, probabilities
from clipaffect.training.matmul import affine
from clipaffect.training.train_heads import train_heads

SMOKE = "--smoke" in sys.argv
DIMENSION, ROWS, REPEATS = (768, 1200, 1) if SMOKE else (768, 20_000, 5)
# frames of Aff-Wild2's AU splits
AU_TRAIN, AU_VALIDATION = (2_500, 500) if SMOKE else (1_356_694, 445_836)
SIZES = (256, 512, 1024) if SMOKE else (10_240, 40_960, 163_840)  # of an epoch
STEPS, SECONDS = (3, 0.05) if SMOKE else (150, 4.0)
CORES = 1 if SMOKE else os.cpu_count() or 1
Figures = dict[str, float]


def recipe(batch: int = 32, products: str = "fp32", **other: float) -> Recipe:
    """The published head and step, with exact CVaR."""
    values = {"width": 768, "dropout": 0.6, "rho": 0.5, "learning_rate": 1e-3, "epochs": 1}
    return Recipe.model_validate(values | {"batch": batch, "products": products, **other})


def features(rows: int, seed: int = 0) -> np.ndarray:
    """Random float16 features; a block repeats, since only their number matters."""
    block = np.random.default_rng(seed).normal(size=(min(rows, ROWS), DIMENSION))
    return np.resize(block.astype(np.float16), (rows, DIMENSION))


def expression_data(folder: Path) -> TrainingData:
    """A memory-mapped table as the engine reads it."""
    path = folder / "expr.npy"
    x = torch.from_numpy(np.load(path, mmap_mode="c"))
    y = torch.from_numpy((np.arange(ROWS)[:, None] % 8).astype(np.int8))
    empty = Split(pd.DataFrame(), x[:0], y[:0])
    return TrainingData(x, y, np.arange(ROWS), np.arange(0), empty)


def engine_rate(folder: Path, batch: int, products: str, seconds: float) -> float:
    """Samples a second of one head, one thread, rows gathered from the mapped table."""
    take_one_core()
    data, chosen = expression_data(folder), recipe(batch, products)
    learner = make_learner(data, EXPR, chosen, 0.5, 0)
    parts = batches(data.rows, batch, 0, 0)
    rate, warm = learning_rate(chosen, 0), 3
    started, samples = 0.0, 0
    for step, at in enumerate(parts * 1000):
        if step == warm:
            started = time.perf_counter()
        learner.step(data.features[at].float(), data.labels[at], step, rate, False)
        if step >= warm:
            samples += len(at)
            if time.perf_counter() - started > seconds:
                break
    return samples / (time.perf_counter() - started)


def peak(dtype: str, product: Callable[[Tensor, Tensor], Tensor] = torch.mm) -> float:
    """Matrix peak of one thread, operations a second."""
    torch.set_num_threads(1)
    return max(matrix_peak(getattr(torch, dtype), product) for _ in range(3))


def evaluation_rate(folder: Path) -> float:
    """Rows a second of one head's evaluation, one thread."""
    torch.set_num_threads(1)
    data = expression_data(folder)
    learner = make_learner(data, EXPR, recipe(), 0.5, 0)
    probabilities(learner.logits, data.features, np.arange(512), EXPR)
    started = time.perf_counter()
    probabilities(learner.logits, data.features, data.rows, EXPR)
    return ROWS / (time.perf_counter() - started)


def on_all_cores(pool: ProcessPoolExecutor, function: Callable, *arguments: object) -> float:
    """Sum over one process a core of what a function returns."""
    running = [pool.submit(function, *arguments) for _ in range(CORES)]
    return sum(future.result() for future in running)


def compare(folder: Path, pool: ProcessPoolExecutor) -> tuple[Figures, list[list[str]]]:
    """The engine against the published loop, interleaved."""
    labels = np.arange(ROWS) % 8
    with h5py.File(folder / "expr.h5", "w") as file:
        file.create_dataset("features", data=np.load(folder / "expr.npy"))
    loop = PublishedLoop(folder / "expr.h5", labels)
    loop.train(5)
    runs: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    grids = [
        ("grid", 32, "fp32"),
        ("grid_bf16", 32, "bf16"),
        ("grid_b256_bf16", 256, "bf16"),
        ("b1024", 1024, "fp32"),
    ]
    for _ in range(REPEATS):
        torch.set_num_threads(CORES)
        profile = loop.train(STEPS)
        for name, seconds in profile.parts.items():
            shares.setdefault(name, []).append(seconds / profile.total)
        found = {
            "published": profile.samples / profile.total,
            "published_eval": loop.evaluate(STEPS),
        }
        # in a process of its own: the loop keeps the allocator as it finds it
        found["one_head"] = pool.submit(engine_rate, folder, 32, "fp32", SECONDS).result()
        found["eval_grid"] = on_all_cores(pool, evaluation_rate, folder)
        found["peak"] = on_all_cores(pool, peak, "float32")
        found["peak_engine"] = on_all_cores(pool, peak, "float32", affine)
        found["peak_bf16"] = on_all_cores(pool, peak, "bfloat16")
        for name, batch, products in grids:
            found[name] = on_all_cores(pool, engine_rate, folder, batch, products, SECONDS)
        for name, value in found.items():
            runs.setdefault(name, []).append(value)

    def ratio(name: str, over: str, factor: float = 1.0) -> float:
        pairs = zip(runs[name], runs[over], strict=True)
        return statistics.median(factor * a / b for a, b in pairs)

    flop = {batch: executed_per_sample(recipe(batch), DIMENSION, 8) for batch in (32, 256, 1024)}
    figures = {
        "one_head_vs_published": ratio("one_head", "published"),
        "grid_vs_published": ratio("grid", "published"),
        "grid_bf16_vs_published": ratio("grid_bf16", "published"),
        "grid_b256_bf16_vs_published": ratio("grid_b256_bf16", "published"),
        "gemm_share_b32": ratio("grid", "peak", flop[32]),
        "gemm_share_b1024": ratio("b1024", "peak", flop[1024]),
        "engine_share_b32": ratio("grid", "peak_engine", flop[32]),
        "engine_share_b1024": ratio("b1024", "peak_engine", flop[1024]),
        "eval_vs_published": ratio("eval_grid", "published_eval"),
    }
    rows = [[name, f"{statistics.median(values):,.0f}"] for name, values in runs.items()]
    rows += [
        [f"published: share of {name}", f"{100 * statistics.median(values):.0f} %"]
        for name, values in shares.items()
    ]
    rows.append(
        [
            "bf16 products, batch 256: share of the bf16 peak",
            f"{100 * ratio('grid_b256_bf16', 'peak_bf16', flop[256]):.0f} %",
        ]
    )
    return figures, rows


def write_au_table(folder: Path) -> None:
    """A table of Aff-Wild2's AU size, labels with a few units not annotated."""
    folder.mkdir()
    rows = AU_TRAIN + AU_VALIDATION
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(rows, 12)) < 0.2).astype(np.int8)
    labels[rng.integers(0, rows, 1000), rng.integers(0, 12, 1000)] = -1
    videos = np.arange(rows) // 4000
    table = {
        "split": pa.array(np.where(np.arange(rows) < AU_TRAIN, "train", "validation")),
        "group": pa.array([f"video-{k}" for k in videos]),
        "video": pa.array([f"video-{k}" for k in videos]),
        "person": pa.array([""] * rows),
        "frame": pa.array((np.arange(rows) % 4000).astype(np.int32)),
        "status": pa.array(["ok"] * rows),
        "feature_row": pa.array(np.arange(rows)),
        **{name: pa.array(labels[:, k]) for k, name in enumerate(AU.columns)},
    }
    write_table(folder / "rows.parquet", pa.table(table).to_pandas())
    out = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (rows, DIMENSION))
    block = features(ROWS)
    for start in range(0, rows, ROWS):
        out[start : start + ROWS] = block[: rows - start]
    out.flush()


def full_size(folder: Path) -> Figures:
    """One epoch of one AU head at full size through the stage; peak memory and time."""
    settings = Training(
        **recipe(1024, "bf16").model_dump(),
        tasks=(AU.name,),
        alphas=(1.0,),
        seeds=(0,),
        headline_alpha=1.0,
        parts=1,
    )
    started = time.perf_counter()
    train_heads(
        folder / "au",
        AU,
        settings,
        0,
        Store(folder / "store"),
        folder / "out",
        folder / "timings.json",
    )
    return {
        "rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "seconds": time.perf_counter() - started,
        "epoch": json.loads((folder / "timings.json").read_text())["seconds"],
    }


def growth(folder: Path) -> tuple[float, list[list[str]]]:
    """Log-log slope of an epoch's time over its rows, on slices of the full table."""
    torch.set_num_threads(1)
    split = read_split(folder / "au", AU, "train")
    chosen, sizes = recipe(1024, "bf16"), SIZES
    times: dict[int, list[float]] = {size: [] for size in sizes}
    data = TrainingData(split.features, split.labels, np.arange(0), np.arange(0), split)
    learner = make_learner(data, AU, chosen, 1.0, 0)
    for _ in range(3):
        for size in sizes:
            # spread over the whole table: a small epoch does not profit from its cache
            rows = np.arange(size) * (AU_TRAIN // size)
            started = time.perf_counter()
            for step, at in enumerate(batches(rows, chosen.batch, 0, 0)):
                learner.step(split.features[at].float(), split.labels[at], step, 1e-3, False)
            times[size].append(time.perf_counter() - started)
    medians = [statistics.median(times[size]) for size in sizes]
    slope = float(np.polyfit(np.log(sizes), np.log(medians), 1)[0])
    lines = [
        [f"epoch of {size:,} AU rows, batch 1024, bf16", f"{t:.2f} s"]
        for size, t in zip(sizes, medians, strict=True)
    ]
    return slope, lines


def solo_gap(folder: Path) -> float:
    """Largest difference between a head trained alone and inside a grid."""
    table = folder / "small"
    table.mkdir()
    count = 600
    rows = pd.DataFrame(
        {
            "split": ["train"] * count,
            "group": "v",
            "video": "v",
            "person": "",
            "frame": range(count),
            "status": "ok",
            "label": np.arange(count) % 8,
            "feature_row": range(count),
        }
    )
    write_table(table / "rows.parquet", rows)
    np.save(table / "features.npy", features(count))
    common = recipe(epochs=2).model_dump()
    grid = Training(**common, alphas=(0.3, 0.5, 1.0), seeds=(0, 1), parts=1)
    alone = Training(**common, alphas=(1.0,), seeds=(1,), headline_alpha=1.0, parts=1)
    for name, settings in (("grid", grid), ("alone", alone)):
        train_heads(table, EXPR, settings, 0, Store(folder / f"store-{name}"), folder / name)
    one, all_heads = (load_file(folder / n / "heads.safetensors") for n in ("alone", "grid"))
    return max(float((all_heads[name] - value).abs().max()) for name, value in one.items())


def on_gpu(folder: Path) -> Figures:
    """Head-samples a second of 50 heads at once on a GPU; empty without one."""
    if not torch.cuda.is_available():
        return {}
    figures = {}
    data = expression_data(folder)
    for batch, products in ((32, "fp32"), (256, "bf16")):
        one = recipe(batch, products)
        heads = [(one, (k % 10 + 1) / 10, k // 10) for k in range(50)]
        stack = Stack(data, EXPR, heads, "cuda")
        stack.epoch(0)  # captures
        started = time.perf_counter()
        stack.epoch(1)  # ends with the records on the host
        rate = 50 * len(data.rows) / (time.perf_counter() - started)
        figures[f"gpu_head_samples_per_s_b{batch}"] = rate
    return figures


def main() -> None:
    """Run everything and print the table and the figures."""
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="clipaffect-benchmark-"))
    context = multiprocessing.get_context("fork" if SMOKE else "spawn")  # a fork imports nothing
    try:
        np.save(folder / "expr.npy", features(ROWS))
        # Unlike multiprocessing's pool, it raises an error if a process dies.
        with ProcessPoolExecutor(CORES, context) as pool:
            figures, lines = compare(folder, pool)
        figures["solo_gap"] = solo_gap(folder)
        write_au_table(folder / "au")
        # In a process of its own, whose peak memory is this work's; if it fails, so does this one.
        with ProcessPoolExecutor(1, context) as child:
            full = child.submit(full_size, folder).result()
        figures["rss_gb_au_full"] = full["rss_gb"]
        figures["rows_growth_exponent"], more = growth(folder)
        figures |= on_gpu(folder)
    finally:
        shutil.rmtree(folder)
    table = Table("measured", "median of rates (samples or rows/s; peaks in operations/s)")
    for line in [*lines, *more]:
        table.add_row(*line)
    table.add_row(f"AU at {AU_TRAIN:,} rows: one epoch, batch 1024, bf16", f"{full['epoch']:.0f} s")
    table.add_row("the whole job with its validation scores", f"{full['seconds']:.0f} s")
    console.print(table)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
