"""Stage ``training``: train the heads of one part of the grid, as one bundle.

A part's bundle is ``heads.safetensors`` (every head's weights under its name), ``heads.parquet``
(one row a head: settings, status, kept epoch) and ``history.parquet`` (one row a head and epoch).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from clipaffect.config.stage_keys import VERSIONS
from clipaffect.config.training import Recipe, Training
from clipaffect.core.files import Damaged, read_json, write_text
from clipaffect.core.gpu import one_device
from clipaffect.core.layout import Heads
from clipaffect.core.node_scratch import scratch_copy
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.progress import Progress
from clipaffect.core.setting import Setting, known_alpha
from clipaffect.core.split_names import TRAIN, VALIDATION
from clipaffect.core.store import Store
from clipaffect.core.tasks import Task
from clipaffect.core.tensors import read_tensors, write_tensors
from clipaffect.features.build_table import feature_dimension, folds_of
from clipaffect.training.backends.autograd import check_user_code
from clipaffect.training.backends.stacked import stack_key
from clipaffect.training.build_head import build_head
from clipaffect.training.cost import Timings
from clipaffect.training.data import (
    Split,
    TrainingData,
    check_trainable,
    data_digest,
    read_split,
    training_data,
)
from clipaffect.training.history import is_collapsed
from clipaffect.training.trainer import CHECKPOINT, TrainedHead, train_head, train_stack
from clipaffect.training.user_code import user_code_digests

# Of these a head's bytes depend on: products, the order of batches, the published search.
PACKAGES = ("torch", "numpy", "scipy")
STACKS = 2  # the form of a stack's checkpoint


def grid(settings: Training, folds: list[int], part: int) -> list[Setting]:
    """The heads of a part, fold by fold; heads are assigned to parts in turn."""
    heads = [
        Setting("head", "", variant, known_alpha(alpha), seed, fold)
        for fold in folds
        for variant, alpha, seed in settings.heads()
    ]
    return heads[part :: settings.parts]


def headline_heads(settings: Training) -> list[Setting]:
    """The grid's own heads at the headline alpha, one for each seed."""
    return [Setting(alpha=settings.headline_alpha, seed=seed) for seed in settings.seeds]


def train_heads(
    table: Path,
    task: Task,
    settings: Training,
    part: int,
    store: Store,
    out: Path,
    timings: Path | None = None,
) -> None:
    """Train the heads of ``part`` and write their bundle into the folder ``out``.

    Each head is cached in the store, keyed by everything it depends on. Unfinished heads
    resume after their last epoch.

    Args:
        timings: where to write the training rate, on which no result depends.
    """
    recipes = settings.recipes()
    heads = grid(settings, folds_of(table), part)
    measured = Timings(task, feature_dimension(table), settings.device)
    entries: dict[Setting, Path] = {}
    epochs = sum(recipes[head.variant].epochs for head in heads)
    with (
        one_device(settings.device == "cuda", "training.device: cuda") as device,
        scratch_copy(table, ["rows.parquet", "features.npy"]) as near,
        Progress("epochs", epochs) as progress,
    ):
        for fold in sorted({head.fold for head in heads}):
            own = [head for head in heads if head.fold == fold]
            train, validation = (read_split(near, task, s, fold) for s in (TRAIN, VALIDATION))
            entries |= train_entries(
                own, train, validation, task, settings, device, store, measured, progress
            )
    _write_heads(entries, recipes, settings.device, task, out)
    if timings is not None:
        measured.write(timings)


def train_entries(
    heads: list[Setting],
    train: Split,
    validation: Split,
    task: Task,
    settings: Training,
    device: str,
    store: Store,
    measured: Timings,
    progress: Progress,
) -> dict[Setting, Path]:
    """The cache entries of heads that share their training rows; missing heads are trained.

    Args:
        heads: which.
        train: what they are trained on.
        validation: what is watched and never used.
        task: the task.
        settings: the ``training`` section.
        device: ``cpu``, or the GPU that this job holds.
        store: the store.
        measured: where rates are noted.
        progress: told of every epoch.
    """
    check_trainable(train.labels.numpy(), task)
    every = settings.recipes()
    recipes = {head.variant: every[head.variant] for head in heads}
    for recipe in recipes.values():
        check_user_code(recipe, task, train.features.shape[1])
    data = {name: training_data(train, validation, task, r) for name, r in recipes.items()}
    base: dict[str, Any] = {
        "version": VERSIONS["heads"],
        "task": task.name,
        "data": data_digest(train, validation),
        "versions": {name: version(name) for name in PACKAGES},
        "device": settings.device,
    }
    keys = {
        head: base
        | {
            "recipe": recipes[head.variant].model_dump(mode="json"),
            "code": user_code_digests(recipes[head.variant]),
            "alpha": head.alpha,
            "seed": head.seed,
        }
        for head in heads
    }
    if settings.device == "cuda":
        train_stacks(device, keys, data, task, recipes, store, measured)
    entries = {}
    for head in heads:
        recipe = recipes[head.variant]
        make = _maker(head, data[head.variant], task, recipe, measured, progress.advance)
        before = progress.done
        entries[head] = store.get_or_make("heads", keys[head], make, keep_partial=True)
        progress.advance(before + recipe.epochs - progress.done)
    return entries


def _maker(
    head: Setting,
    data: TrainingData,
    task: Task,
    recipe: Recipe,
    measured: Timings,
    after_epoch: Callable[[], None],
) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        trained = train_head(data, task, recipe, _level(head), head.seed, folder, after_epoch)
        measured.add(recipe, trained.samples, trained.seconds)
        _write_entry(trained, folder)

    return make


def _level(head: Setting) -> float:
    """CVaR's level; NaN for losses that have none."""
    return math.nan if head.alpha is None else head.alpha


def _columns(head: Setting) -> dict[str, Any]:
    """Columns that name a head in the tables of heads and histories."""
    own = {"variant": head.variant, "alpha": _level(head), "seed": head.seed, "fold": head.fold}
    return {"head": head.head_name, **own}


def _write_entry(trained: TrainedHead, folder: Path) -> None:
    """Write the files of a finished head; its checkpoint is then no longer needed."""
    write_tensors(folder / "head.safetensors", trained.weights)
    write_table(folder / "history.parquet", pd.DataFrame(trained.history))
    record = {"status": trained.status, "kept_epoch": trained.kept}
    write_text(folder / "record.json", json.dumps(record))
    (folder / CHECKPOINT).unlink(missing_ok=True)


def train_stacks(
    device: str,
    keys: dict[Setting, dict[str, Any]],
    data: dict[str, TrainingData],
    task: Task,
    recipes: dict[str, Recipe],
    store: Store,
    measured: Timings,
) -> None:
    """Train the missing heads in as few stacks as their recipes allow, into the store.

    The list of these heads is written first, so that a job killed while it stores the finished
    stack resumes with the same stack.
    """
    groups: dict[str, dict[str, Setting]] = {}
    for head in keys:
        groups.setdefault(stack_key(recipes[head.variant]), {})[head.head_name] = head
    for heads in groups.values():
        if all(store.has("heads", keys[head]) for head in heads.values()):
            continue
        attempt = {"version": STACKS, "heads": [keys[head] for head in heads.values()]}
        with store.attempt("stacks", attempt) as folder:
            stacked = [heads[name] for name in _planned(folder, heads, keys, store)]
            triples = [(recipes[head.variant], _level(head), head.seed) for head in stacked]
            recipe, variant = triples[0][0], stacked[0].variant
            with Progress("epochs", recipe.epochs) as progress:
                stack = train_stack(data[variant], task, triples, device, folder, progress.advance)
            for head, trained in zip(stacked, stack, strict=True):
                measured.add(recipes[head.variant], trained.samples, trained.seconds)
                store.get_or_make("heads", keys[head], partial(_write_entry, trained))


def _planned(
    folder: Path, heads: dict[str, Setting], keys: dict[Setting, dict[str, Any]], store: Store
) -> list[str]:
    """The names of the heads of a stack; its checkpoint is only good for the same heads."""
    plan = folder / "plan.json"
    try:
        names: list[str] = read_json(plan)
    except (FileNotFoundError, Damaged):
        (folder / CHECKPOINT).unlink(missing_ok=True)
        names = [name for name, head in heads.items() if not store.has("heads", keys[head])]
        write_text(plan, json.dumps(names))
    return names


def _write_heads(
    entries: dict[Setting, Path], recipes: dict[str, Recipe], device: str, task: Task, out: Path
) -> None:
    weights: dict[str, torch.Tensor] = {}
    rows: list[dict[str, Any]] = []
    histories = []
    for head, entry in entries.items():
        record = read_json(entry / "record.json")
        history = read_table(entry / "history.parquet")
        histories.append(history.assign(**_columns(head)))
        how = {"products": recipes[head.variant].products, "device": device}
        kept = _kept(history, record["kept_epoch"], task)
        rows.append(_columns(head) | how | record | kept)
        state = read_tensors(entry / "head.safetensors")
        weights |= {f"{head.head_name}/{key}": value for key, value in state.items()}
    write_tensors(Heads(out).weights, weights)
    write_table(Heads(out).listed, pd.DataFrame(rows))
    write_table(Heads(out).history, pd.concat(histories, ignore_index=True))


def _kept(history: pd.DataFrame, kept: int, task: Task) -> dict[str, Any]:
    """The table entries for the kept epoch, and for the best epoch on validation."""
    nothing = {
        "mean_largest_probability": float("nan"),
        "collapsed": False,
        "inner_macro_f1": float("nan"),
        "best_validation_epoch": 0,
        "best_validation_macro_f1": float("nan"),
    }
    if not kept:
        return nothing
    epoch = history.set_index("epoch").loc[kept]
    largest = float(epoch["mean_largest_probability"])
    found = {
        "mean_largest_probability": largest,
        "collapsed": is_collapsed(largest, task),
        "inner_macro_f1": float(epoch["inner_macro_f1"]),
    }
    watched = history.dropna(subset=["validation_macro_f1"])
    if len(watched):
        best = watched.loc[watched["validation_macro_f1"].idxmax()]
        found["best_validation_epoch"] = int(best["epoch"])
        found["best_validation_macro_f1"] = float(best["validation_macro_f1"])
    return nothing | found


def finished_heads(folders: list[Path]) -> pd.DataFrame:
    """One row per head of some bundles, including failed heads; ``bundle`` is its folder."""
    parts = [read_table(Heads(path).listed).assign(folder=str(path)) for path in folders]
    found = pd.concat(parts, ignore_index=True)
    return found.sort_values(["variant", "alpha", "seed", "fold"], ignore_index=True)


def load_entry(entry: Path, recipe: Recipe, task: Task, inputs: int, seed: int) -> nn.Module | None:
    """Load the head of a cache entry in evaluation mode; None if it failed."""
    if read_json(entry / "record.json")["status"] != "ok":
        return None
    head = build_head(recipe, inputs, len(task.targets), seed)
    head.load_state_dict(read_tensors(entry / "head.safetensors"))
    return head.eval()


def load_head(row: pd.Series, task: Task, settings: Training, inputs: int) -> nn.Module:
    """Load the head of a row of ``finished_heads`` with status ok, in evaluation mode."""
    weights = read_tensors(Heads(Path(row["folder"])).weights, f"{row['head']}/")
    recipe = settings.recipes()[row["variant"]]
    head = build_head(recipe, inputs, len(task.targets), int(row["seed"]))
    head.load_state_dict(weights)
    return head.eval()
