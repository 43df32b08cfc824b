"""Export the headline heads of a finished run as a bundle (``clipaffect export``).

Everything is read from the results folder. The store is not needed, so results that were
pulled from a remote can be exported as well.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from clipaffect.bundle.feature_statistics import fit_statistics
from clipaffect.bundle.files import bundle_files, cautions, exported_encoder
from clipaffect.bundle.format import FORMAT, NAME, VERSION, Bundle, read_bundle
from clipaffect.bundle.onnx import write_onnx
from clipaffect.bundle.prediction_columns import columns
from clipaffect.bundle.preprocessing import describe
from clipaffect.bundle.trained_on import trained_on
from clipaffect.config import parse_config
from clipaffect.config.models import Config
from clipaffect.config.stage_keys import shard_names
from clipaffect.core.errors import UserError
from clipaffect.core.files import read_json, write_text
from clipaffect.core.hashing import digest, file_digest
from clipaffect.core.layout import Heads, Layout, Model
from clipaffect.core.parquet import read_table
from clipaffect.core.split_names import EVERYBODY, TRAIN
from clipaffect.core.tasks import Task
from clipaffect.core.tensors import read_tensors, write_tensors
from clipaffect.dataset.frame_rate import frame_rate
from clipaffect.report.pages import page_environment
from clipaffect.report.results import read_summary, unit_of
from clipaffect.report.run_record import RECORD, read_record
from clipaffect.training.data import read_split
from clipaffect.training.seed_heads import Weights, read_seed_heads, write_seed_heads
from clipaffect.training.train_heads import finished_heads

logger = logging.getLogger(__name__)

NOT_SCORED = (
    "The exported heads were then trained on all people, with the same recipe. They have not been "
    "scored themselves."
)
NOT_MLP = "the heads are custom modules, whose code a bundle would have to run"


def export_model(
    results: Path, assets: Path, out: Path, *, include_weights: bool = False, onnx: bool = False
) -> Path:
    """Write a bundle into the folder ``out``; returns its ``bundle.json``.

    Args:
        results: ``results/<run>`` of a finished run.
        assets: folder of fetched assets: the sha256 of weights that have a tag is read there.
        out: a new folder, or an earlier bundle, which is replaced as a whole.
        include_weights: copy encoders' weights that are files of the user's into the bundle.
        onnx: write ONNX files too.

    Raises:
        UserError: no finished run, nothing that can be handed on, or ``out`` is something else.
    """
    record = read_record(results)
    config = parse_config(record["config"], str(results / RECORD))
    _check_exportable(config)
    numbers = read_json(Layout(results).report.metrics)["tasks"]
    _check_place(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
        folder = Path(beside) / out.name
        folder.mkdir()
        rate = _frame_rate(config, results)
        tasks = {
            name: _export_task(config, task, numbers[name], results, folder, rate)
            for name, task in config.tasks().items()
        }
        names = sorted({own["features"] for task in tasks.values() for own in task["heads"]})
        features = {name: tuple(config.features.join.get(name, (name,))) for name in names}
        used = sorted({part for parts in features.values() for part in parts})
        encoders = {
            name: exported_encoder(config.encoders[name], name, assets, folder, include_weights)
            for name in used
        }
        steps = describe(config.faces, {name: config.encoders[name] for name in used})
        write_text(Model(folder).preprocessing, json.dumps(steps, indent=2) + "\n")
        bundle: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "run": config.run,
            "licensed": config.data.licensed,
            "faces": config.faces.model_dump(mode="json"),
            "encoders": {name: one.model_dump(mode="json") for name, one in encoders.items()},
            "features": features,
            "tasks": tasks,
            "cautions": cautions({name: config.encoders[name] for name in used}),
            "stages": record["stages"],
            "packages": record["versions"],
            "config": digest(record["config"]),
            "made_from": source_digest(config, results),
            "files": {},
        }
        features_of = Layout(results).table(config.encoder, next(iter(tasks)))
        if features_of.features.is_file():
            _export_statistics(config, features_of.folder, Model(folder).feature_statistics)
            bundle["feature_statistics"] = Model(folder).feature_statistics.name
        else:
            logger.warning(
                "training features not found: %s; predictions with this model will not flag faces "
                "far from the training data. To add this, build the table and export again",
                features_of.features,
            )
        described = Bundle.model_validate(bundle | {"files": bundle_files(folder)})
        if onnx:
            write_onnx(described, folder, assets, config.encoders)
        _write_readme(described, config, results, folder)
        bundle["files"] = bundle_files(folder)
        checked = Bundle.model_validate(bundle)
        columns(checked, heads=True)  # whose names must differ
        write_text(
            Model(folder).bundle, json.dumps(checked.model_dump(mode="json"), indent=1) + "\n"
        )
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return Model(out).bundle


def source_digest(config: Config, results: Path) -> str:
    """Digest of the run's record, and of its final heads: what a model is made from."""
    paths = [results / RECORD]
    if config.trains_final_heads:
        paths += [Layout(results).final_heads(task).weights for task in config.tasks()]
    return digest([file_digest(path) if path.is_file() else "" for path in paths])


def _check_exportable(config: Config) -> None:
    where = f"run '{config.run}'"
    names = config.features.join.get(config.encoder, (config.encoder,))
    if not set(names) <= set(config.encoders):
        raise UserError(
            f"the heads were trained on imported features ('{config.encoder}'): predicting from "
            "video needs the encoder that made them",
            where=f"{where}, encoder",
            fix="train heads on one of the encoders listed under 'encoders'",
        )
    if config.training.recipes()[""].head != "mlp":
        raise UserError(
            NOT_MLP,
            where=f"{where}, training.head",
            fix="set head: mlp to export the heads (a custom loss is allowed)",
        )
    if config.data.split.by == "folds" and not config.trains_final_heads:
        raise UserError(
            "under k-fold evaluation no scored head is trained on all people",
            where=f"{where}, final_heads: scored",
            fix="remove 'final_heads' (its default is then 'everybody') and run again: only the "
            "final heads are trained",
        )


def _check_place(out: Path) -> None:
    """Check that ``out`` is new, or an earlier bundle without any unrelated files."""
    if not out.exists():
        return
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    ours: set[str] = set()
    if out.is_dir() and (out / NAME).is_file():
        with suppress(UserError):
            ours = {NAME, *read_bundle(out / NAME).files}
    here = Path.cwd()
    if not out.is_dir() or files - ours or out.resolve() in (here, *here.parents):
        raise UserError(
            "the output folder exists and is not a bundle", where=out, fix="choose another folder"
        )


def _export_task(
    config: Config,
    task: Task,
    numbers: dict[str, Any],
    results: Path,
    folder: Path,
    rate: float | None,
) -> dict[str, Any]:
    """Write a task's heads; returns its entry of ``bundle.json``, with the videos' frame rate."""
    alpha = config.training.headline_alpha
    choices: dict[str, Any] = {"seeds": [], "final": []}
    if config.postprocess.steps:
        choices |= read_json(Layout(results).postprocessing(task.name).choices)
    if "final" not in choices:  # of an earlier version
        if config.trains_final_heads:
            raise UserError(
                "the results are of an earlier version, which chose no steps for final heads",
                where=results,
                fix="run the workflow again; finished heads come from the store",
            )
        choices["final"] = [
            {"step": row["step"], "choice": row["choice"]} for row in choices["steps"]
        ]
    steps = choices["final"]
    others = [name for row in steps for name in row["choice"].get("with", [])]
    if config.trains_final_heads:
        final = _final_weights(config, task, results)
        weights = {name: read_seed_heads(final, name) for name in (config.encoder, *others)}
    else:
        own = _own_heads(config, task, results, alpha)
        # The steps were chosen on, and for, the seeds that had finished everywhere.
        seeds = choices["seeds"] or sorted(own)
        weights = {config.encoder: {seed: own[seed] for seed in seeds}}
        stepped = Layout(results).postprocessing(task.name).heads
        weights |= {name: read_seed_heads(stepped, name) for name in others}
    file = Model(folder).heads(task.name).relative_to(folder).as_posix()
    write_seed_heads(folder / file, weights)
    after = numbers["postprocessed"] if steps else None
    return {
        "targets": task.targets,
        "multilabel": task.multilabel,
        "file": file,
        "heads": [
            {"features": features, "seeds": sorted(by_seed), **_shape(next(iter(by_seed.values())))}
            for features, by_seed in weights.items()
        ],
        "alpha": alpha,
        "steps": steps,
        "macro_f1": numbers["headline"]["mean"],
        "low": numbers["interval"][0],
        "high": numbers["interval"][1],
        "after_steps": after["macro_f1"] if after else None,
        "protocol": _protocol(config, numbers, bool(steps), unit_of(read_summary(results))),
        "trained_on": _trained_on(config, task, results) | {"frame_rate": rate},
        "final_heads": config.trains_final_heads,
    }


def _trained_on(config: Config, task: Task, results: Path) -> dict[str, Any]:
    summary = read_summary(results)
    splits = summary["tasks"][task.name]
    # Splits share no person and no video, so that their numbers add up.
    used = list(splits.values()) if config.trains_final_heads else [splits[TRAIN]]
    return {
        "source": config.data.source,
        "people": sum(own["people"] for own in used) if summary["names_people"] else None,
        "videos": sum(own["videos"] for own in used),
        "frames": sum(own["annotated"] for own in used),
    }


def _frame_rate(config: Config, results: Path) -> float | None:
    """Of the run's videos; None without their frame index."""
    files = [Layout(results).frames(shard) for shard in shard_names(config.data.shards)]
    rows = [read_table(path, ["video", "frame", "time"]) for path in files if path.is_file()]
    return frame_rate(pd.concat(rows)) if rows else None


def _export_statistics(config: Config, table: Path, path: Path) -> None:
    task = next(iter(config.tasks().values()))
    train = read_split(table, task, EVERYBODY if config.trains_final_heads else TRAIN)
    fitted = fit_statistics(train.features.numpy(), train.rows["group"])
    write_tensors(path, fitted.tensors())


def _own_heads(config: Config, task: Task, results: Path, alpha: float) -> dict[int, Weights]:
    parts = [Layout(results).heads(task.name, part).folder for part in range(config.training.parts)]
    listed = finished_heads(parts)
    chosen = listed[(listed["variant"] == "") & (listed["alpha"] == alpha)]
    chosen = chosen[chosen["status"] == "ok"]
    if chosen.empty:
        raise UserError(
            f"no head of {task.name} at alpha = {alpha:g} finished training",
            where=results,
            fix="check the status of the heads in the report",
        )
    return {int(row["seed"]): _state_of(row) for _, row in chosen.iterrows()}


def _state_of(row: pd.Series) -> Weights:
    return read_tensors(Heads(Path(row["folder"])).weights, f"{row['head']}/")


def _final_weights(config: Config, task: Task, results: Path) -> Path:
    """The file of the heads that were trained on everybody."""
    path = Layout(results).final_heads(task.name).weights
    if not path.is_file():
        raise UserError(
            f"the final heads for {task.name} have not been trained",
            where=path,
            fix=f"run 'clipaffect run model' with the configuration of '{config.run}'; it trains "
            "and exports them",
        )
    return path


def _shape(state: Weights) -> dict[str, int]:
    """Dimensions of an MLP head, from its weights."""
    layers = sum(name.startswith("linears.") and name.endswith(".weight") for name in state)
    first = state["linears.0.weight"] if layers else state["output.weight"]
    return {
        "inputs": int(first.shape[1]),
        "hidden_layers": layers,
        "width": int(state["output.weight"].shape[1]) if layers else 1,
    }


def _protocol(config: Config, numbers: dict[str, Any], steps: bool, unit: str) -> str:
    frames = numbers["frames"]
    scored = frames["with_crop"] + frames["filled"]
    folds = config.data.split.by == "folds"
    whose = (
        f"{numbers['people']} {unit}, each scored by heads that were trained on other folds"
        if folds
        else f"{numbers['people']} validation {unit}, on which no head was trained"
    )
    text = (
        f"Macro F1 on {scored:,} annotated frames of {whose}; frames pooled; mean over "
        f"{numbers['headline']['seeds']} seeds at the alpha fixed beforehand "
        f"({numbers['headline_alpha']:g}); interval over {unit}."
    )
    if steps:
        text += (
            f" The scored steps after the head were chosen on {config.postprocess.folds} "
            f"cross-fitted parts of the training {unit}."
        )
        if folds:
            text += f" The exported steps were chosen on the out-of-fold scores of all {unit}."
    if config.trains_final_heads:
        text += f" {NOT_SCORED}"
    return text


def _write_readme(bundle: Bundle, config: Config, results: Path, folder: Path) -> None:
    environment = page_environment()
    environment.autoescape = False  # Markdown
    cards = [Layout(results).report.card(name).read_text() for name in bundle.tasks]
    text = environment.get_template("bundle.md").render(
        bundle=bundle,
        config=config,
        cards=cards,
        onnx=(folder / "onnx").is_dir(),
        trained_on=trained_on(bundle),
    )
    write_text(Model(folder).readme, text)
