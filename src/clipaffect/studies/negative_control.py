"""The card on the negative control: heads trained on labels of other people score at chance."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from clipaffect.config.models import Config
from clipaffect.core.layout import Layout, Study
from clipaffect.core.parquet import read_table
from clipaffect.report.results import read_summary, unit_of
from clipaffect.studies.card import Card, CardSection, first_fold_only, write_card_page
from clipaffect.studies.permute_labels import EXCHANGES

QUESTION = "Do heads that cannot have learned anything score at chance?"
LEVEL = 0.01  # one-sided


def control_answer(name: str, found: pd.DataFrame) -> str:
    """Whether the heads of a task score at chance."""
    if found.empty:
        return f"{name}: not tested, because the labels cannot be permuted between people."
    row = found.iloc[0]
    said = "yes" if row["p"] >= LEVEL else "no"
    text = (
        f"{name}: at chance: {said}. Trained on permuted labels, the heads score "
        f"{row['score']:.3f}; predictions given to other people score {row['mean']:.3f} "
        f"({row['low']:.3f} to {row['high']:.3f}; p = {row['p']:.2g})."
    )
    if said == "no":
        text += " Something tells the training about the validation labels: do not use the scores."
    return text


def write_negative_control(config: Config, folder: Path, out: Path) -> None:
    """Write the card to ``out`` from ``control/<task>.parquet`` there."""
    unit = unit_of(read_summary(folder))
    answers, rows = {}, []
    for name in config.tasks():
        found = read_table(Study(out).control(name))
        answers[name] = control_answer(name, found)
        rows.append(found.assign(task=name)[["task", *found.columns]])
    tables = Layout(folder).table(config.encoder, next(iter(config.tasks()))).folder.parent
    card = Card(
        QUESTION,
        f"The recipe at alpha = {config.training.headline_alpha:g}, trained on labels that were "
        f"permuted between the training {unit}.",
        answers,
        [
            CardSection(
                "",
                "chance",
                "Macro F1 on the true validation labels (mean over two seeds), and mean and 95 % "
                f"range of {EXCHANGES} scores with the predictions for everybody given to somebody "
                "else.",
                pd.concat(rows, ignore_index=True),
            )
        ],
        "Labels keep their order in time. The test is one-sided at 1 %: of 100 sound runs, one "
        f"says no. {first_fold_only(tables, config.tasks())}".rstrip(),
    )
    write_card_page(card, config.run, out)
