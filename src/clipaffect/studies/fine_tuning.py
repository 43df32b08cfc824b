"""The card that compares a tuned last block with a frozen encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from clipaffect.config.encoders import Encoder
from clipaffect.config.models import Config
from clipaffect.core.layout import Study
from clipaffect.core.parquet import read_table
from clipaffect.encoders.untrained import create_untrained
from clipaffect.evaluation.compare_heads import PLANNED, compare_pairs, interval_rows
from clipaffect.evaluation.person_counts import Counted, read_counts
from clipaffect.report.headline import LEVEL
from clipaffect.report.results import read_summary, unit_of
from clipaffect.studies.card import Card, CardSection, first_fold_only, score_dots, write_card_page
from clipaffect.studies.fine_tune import (
    AS_TRAINED,
    EPOCHS,
    FRAMES,
    GOES_ON,
    RATE,
    TUNED,
)
from clipaffect.studies.last_block import last_block

QUESTION = "Does it help to tune the encoder's last block?"
NAMES = {AS_TRAINED: "frozen, the run's own head", GOES_ON: GOES_ON, TUNED: TUNED}


def arms_table(counted: Counted, resamples: int) -> pd.DataFrame:
    """A row an arm; ``difference`` of the tuned one to the frozen one that went on, too."""
    arms = {setting.variant: setting for setting in counted.seeds}
    table = pd.DataFrame(interval_rows(counted, list(arms.values()), ""))
    row = compare_pairs(counted, [(arms[TUNED], arms[GOES_ON], PLANNED)], "", resamples)[0]
    table["arm"] = table["variant"].map(NAMES)
    for name in ("difference", "p"):
        table[name] = np.where(table["variant"] == TUNED, row[name], np.nan)
    return table.rename(columns={"estimate": "macro_f1"})[
        ["arm", "macro_f1", "low", "high", "seeds", "people", "difference", "p"]
    ]


def tuning_answer(name: str, table: pd.DataFrame, share: float) -> str:
    """The answer for one task; ``share`` is the block's share of the tower's weights."""
    own = table.set_index("arm")
    row = own.loc[TUNED]
    text = (
        f"{name}: with the last block tuned ({share:.0%} of the tower's weights) "
        f"{row['macro_f1']:.3f}, with the same further training of the head alone "
        f"{own.loc[GOES_ON, 'macro_f1']:.3f} ({row['difference']:+.3f}"
    )
    if np.isnan(row["p"]):
        return text + "; the sample is too small for a test)."
    said = "it is not shown that tuning the block changes anything"
    if row["p"] < LEVEL:
        said = f"tuning the block {'helps' if row['difference'] > 0 else 'harms'}"
    return f"{text}, p = {row['p']:.2g}): {said}."


def block_share(encoder: Encoder) -> float:
    """The last block's share of the image tower's weights."""
    visual = create_untrained(encoder.model, "meta").visual
    block = sum(weight.numel() for weight in last_block(visual).parameters())
    return block / sum(weight.numel() for weight in visual.parameters())


def write_fine_tuning(config: Config, folder: Path, out: Path) -> None:
    """Write the card to ``out`` from ``counts/<task>.parquet`` there."""
    unit = unit_of(read_summary(folder))
    share = block_share(config.encoders[config.encoder])
    answers: dict[str, str] = {}
    sections: list[CardSection] = []
    for name in config.tasks():
        path = Study(out).person_counts(name)
        if read_table(path).empty:
            answers[name] = f"{name}: no head of the headline was finished."
            continue
        counted = read_counts(path)
        table = arms_table(counted, config.evaluation.resamples)
        answers[name] = tuning_answer(name, table, share)
        sections.append(
            CardSection(
                name,
                f"arms_{name}",
                f"Macro F1 with 95 % intervals over {unit}; the "
                f"difference is that of the two arms that went on, paired by {unit} and seed.",
                table,
                score_dots(table, table["arm"]),
            )
        )
    card = Card(
        QUESTION,
        "From the headline's heads on: the head alone, or the head and the last block of the image "
        "tower.",
        answers,
        sections,
        f"{EPOCHS} epochs at a rate of {RATE:g} on up to {FRAMES} frames of each training "
        f"person, in float32, without SAM, set beforehand; scored on up to {FRAMES} frames "
        "of each validation person. Longer training, other rates or all blocks may do otherwise. "
        f"{first_fold_only(folder / 'tables' / config.encoder, config.tasks())}",
    )
    write_card_page(card, config.run, out)
