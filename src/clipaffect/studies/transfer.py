"""The page of a transfer study: this run's heads on the validation frames of other runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clipaffect.config import parse_config
from clipaffect.config.models import Config
from clipaffect.config.stage_keys import shard_names
from clipaffect.config.studies import Planned
from clipaffect.core.errors import UserError
from clipaffect.core.layout import Layout
from clipaffect.core.parquet import read_schema
from clipaffect.core.setting import Setting
from clipaffect.core.split_names import TRAIN, VALIDATION
from clipaffect.core.tasks import Task
from clipaffect.evaluation.compare_heads import PLANNED, compare_pairs, interval_rows
from clipaffect.evaluation.person_counts import Counted, count_array
from clipaffect.features.build_table import folds_of
from clipaffect.report.headline import LEVEL
from clipaffect.report.results import read_summary, unit_of
from clipaffect.studies.card import Card, CardSection, score_dots, write_card_page
from clipaffect.studies.headline_heads import head_counts, headline_heads
from clipaffect.training.data import Split, read_split


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its configuration and its folder."""

    config: Config
    folder: Path

    @property
    def name(self) -> str:
        """Of the run."""
        return self.config.run

    def table(self, task: Task) -> Path:
        """The table that its heads were trained on."""
        return Layout(self.folder).table(self.config.encoder, task.name).folder

    def encoder(self) -> str:
        """Digest of the encoder that made its features."""
        shard = Layout(self.folder).embeddings(self.config.encoder, shard_names(1)[0])
        return (read_schema(shard).metadata or {}).get(b"encoder", b"").decode()


def read_run(folder: Path) -> FinishedRun:
    """A finished run of this project.

    Raises:
        UserError: there is none.
    """
    path = Layout(folder).report.record
    if not path.exists():
        raise UserError(
            "the run does not exist or is not finished",
            where=folder,
            fix="run its configuration first, or remove its name from the study's 'runs'",
        )
    return FinishedRun(parse_config(json.loads(path.read_text())["config"], str(path)), folder)


def check_alike(here: FinishedRun, there: FinishedRun, task: Task) -> None:
    """Raise a UserError unless heads of one run can use the features of the other."""
    known = there.config.tasks().get(task.name)
    where = f"results/{there.name}"
    if known is None or known.targets != task.targets:
        raise UserError(
            f"the run has no task {task.name} with the same classes or labels",
            where=where,
            fix="remove it from the study's 'runs'",
        )
    if here.encoder() != there.encoder():
        raise UserError(
            "the run's features come from another encoder, or another version of it",
            where=where,
            fix="use the same encoder in both configurations",
        )


def _counts(
    heads_of: FinishedRun, split: Split, task: Task, fold: int, people: list[str]
) -> dict[int, np.ndarray]:
    """Counts (people, targets, 3) by seed of a run's headline heads on some frames."""
    settings, inputs = heads_of.config.training, split.features.shape[1]
    labels, groups = split.labels.numpy(), split.rows["group"].to_numpy()
    return {
        seed: count_array(
            head_counts(head, split.features, labels, groups, task), people, task.targets
        )
        for seed, head in headline_heads(heads_of.folder, settings, task, fold, inputs)
    }


def transfer_table(
    here: FinishedRun, there: FinishedRun, task: Task, resamples: int
) -> pd.DataFrame:
    """Two rows: the other run's own heads and this run's, on the other's validation frames.

    ``difference`` is this run's to the other's own; ``known_people`` counts names that are among
    this run's training people, too. Under k-fold evaluation each fold's frames are scored by the
    other run's heads of that fold; this run's heads are those of its first.
    """
    check_alike(here, there, task)
    mine = folds_of(here.table(task))[0]
    trained = set(read_split(here.table(task), task, TRAIN, mine).rows["group"].astype(str))
    own: dict[int, np.ndarray] = {}
    moved: dict[int, np.ndarray] = {}
    splits = {
        f: read_split(there.table(task), task, VALIDATION, f) for f in folds_of(there.table(task))
    }
    people = sorted({str(g) for split in splits.values() for g in split.rows["group"].unique()})
    for fold, split in splits.items():
        for sums, found in (
            (own, _counts(there, split, task, fold, people)),
            (moved, _counts(here, split, task, mine, people)),
        ):
            for seed, counts in found.items():
                sums[seed] = sums.get(seed, 0) + counts
    settings = {
        "home": Setting("head", there.name, "", None),
        "moved": Setting("head", here.name, "", None),
    }
    if not own or not moved:
        return pd.DataFrame()
    seeds = {settings["home"]: own, settings["moved"]: moved}
    counted = Counted(people, task.targets, seeds, {})
    table = pd.DataFrame(interval_rows(counted, list(seeds), ""))
    pair = (settings["moved"], settings["home"], PLANNED)
    compared = compare_pairs(counted, [pair], "", resamples)
    row = compared[0] if compared else {"difference": np.nan, "p": np.nan}
    table.insert(0, "frames_of", there.name)
    for name in ("difference", "p"):
        table[name] = np.where(table["encoder"] == here.name, row[name], np.nan)
    table["known_people"] = len(trained & set(people))
    table = table.rename(columns={"encoder": "heads_of", "estimate": "macro_f1"})
    return table[
        [
            "frames_of",
            "heads_of",
            "macro_f1",
            "low",
            "high",
            "seeds",
            "people",
            "difference",
            "p",
            "known_people",
        ]
    ]


def transfer_answer(name: str, table: pd.DataFrame, here: str) -> str:
    """What the rows of one other run say of one task."""
    if table.empty:
        return f"{name}: a run has no finished head of its headline."
    moved, own = table[table["heads_of"] == here].iloc[0], table[table["heads_of"] != here].iloc[0]
    text = (
        f"{name}: on {own['frames_of']} these heads score {moved['macro_f1']:.3f}, its own "
        f"{own['macro_f1']:.3f} ({moved['difference']:+.3f}"
    )
    if np.isnan(moved["p"]):
        text += "; the sample is too small for a test)"
    else:
        said = "no difference is shown"
        if moved["p"] < LEVEL:
            said = f"its own are {'worse' if moved['difference'] > 0 else 'better'}"
        text += f", p = {moved['p']:.2g}): {said}"
    if moved["known_people"]:
        text += (
            f"; {moved['known_people']} of {moved['people']} people there have names that are "
            "among the training people here, so this is not transfer to strangers"
        )
    return text + "."


def write_transfer(planned: Planned, run: str, folder: Path, out: Path) -> None:
    """Write the page, the answer, tables and figures of a study with ``answer: transfer``.

    Args:
        planned: the study, with the names of the other runs.
        run: this one.
        folder: ``results/<run>``; the others lie beside it.
        out: the study's folder.
    """
    here = read_run(folder)
    unit = unit_of(read_summary(folder))
    answers: dict[str, str] = {}
    sections: list[CardSection] = []
    torch.set_num_threads(1)
    for name, task in planned.config.tasks().items():
        tables = [
            transfer_table(
                here, read_run(folder.parent / other), task, planned.config.evaluation.resamples
            )
            for other in planned.study.runs
        ]
        answers[name] = " ".join(transfer_answer(name, table, run) for table in tables)
        whole = pd.concat(tables, ignore_index=True)
        if whole.empty:
            continue
        names = [f"{own.frames_of}, by heads of {own.heads_of}" for own in whole.itertuples()]
        kind = np.where(whole["heads_of"] == run, "head", "reference")
        sections.append(
            CardSection(
                name,
                f"transfer_{name}",
                f"Macro F1 on the validation {unit} of the other "
                f"run, with 95 % intervals; the difference is paired by {unit} and seed.",
                whole,
                score_dots(whole, names, kind),
            )
        )
    card = Card(
        planned.study.question,
        f"The headline's heads of {run} on the validation frames of other runs, compared with "
        "the heads of those runs.",
        answers,
        sections,
        "The same encoder makes both runs' features; crops and frame rates are each run's own.",
    )
    write_card_page(card, run, out)
