"""The card on cost: counted cost of this run's encoder and heads, and published figures."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pandas as pd
import yaml

from clipaffect.config.models import Config
from clipaffect.report.cost import encoder_rows, head_rows
from clipaffect.report.results import read_results
from clipaffect.studies.card import Card, CardSection, write_card_page

QUESTION = "What does it cost, compared with other systems?"
MILLION = 1e6


def published_costs() -> pd.DataFrame:
    """Columns system, million_parameters, gflop, said, source; NaN where no source was found."""
    text = resources.files("clipaffect.studies").joinpath("published_costs.yaml").read_text("utf-8")
    table = pd.DataFrame(yaml.safe_load(text))
    numbers = ["million_parameters", "gflop"]
    return table.astype(dict.fromkeys(numbers, float)).sort_values(
        "gflop", kind="stable", ignore_index=True
    )


def cost_answer(name: str, counted: pd.DataFrame, encoder: str, published: pd.DataFrame) -> str:
    """The cost of a task's head compared with its encoder, and of the encoder with the paper's."""
    rows = counted.set_index("what")
    if f"head, {name}" not in rows.index:
        return f"{name}: the head is your own, and is not counted."
    head = rows.loc[f"head, {name}"]
    text = (
        f"{name}: a head has {head['million_parameters']:.3g} million weights, and a training step "
        f"takes {head['gflop']:.2g} GFLOP for a frame"
    )
    if f"encoder {encoder}" not in rows.index:
        return f"{text}; its features were imported."
    own = rows.loc[f"encoder {encoder}"]
    text += (
        f". The encoder has {own['million_parameters']:.3g} million weights and takes "
        f"{own['gflop']:.3g} GFLOP for a face"
    )
    paper = published[published["system"].str.contains("the paper's encoder")].iloc[0]
    if own["gflop"] <= 0:
        return f"{text}."
    times = paper["gflop"] / own["gflop"]
    if times >= 1:
        return f"{text}; the paper's ViT-L/14 takes {times:,.0f} times as much."
    return f"{text}, {1 / times:.3g} times as much as the paper's ViT-L/14."


def write_costs(config: Config, folder: Path, out: Path) -> None:
    """Write the card to ``out``, without any timings."""
    results = read_results(config, folder)
    found = [*encoder_rows(config), *head_rows(results, folder)]
    counted = pd.DataFrame(found, columns=["what", "parameters", "flop", "times"])
    counted["million_parameters"] = counted.pop("parameters") / MILLION
    counted["gflop"] = counted.pop("flop") / 1e9
    published = published_costs()
    counted = counted[["what", "million_parameters", "gflop", "times"]]
    answers = {
        name: cost_answer(name, counted, config.encoder, published) for name in config.tasks()
    }
    card = Card(
        QUESTION,
        "Parameters and floating-point operations of this run, counted by torch, next to figures "
        "that others have published.",
        answers,
        [
            CardSection(
                "This run",
                "counted",
                "Counted. Of a head: one frame and training step, SAM's "
                "two passes together; an answer alone takes a sixth of that (a third without "
                "SAM).",
                counted,
            ),
            CardSection(
                "Others",
                "published",
                "As their sources say it, operations made comparable "
                "(a multiplication and an addition are two). None was measured here.",
                published,
            ),
        ],
        "Seconds for a million frames and memory, as they were measured on this machine, are in "
        "timings/index.html. They depend on the machine and differ from run to run.",
    )
    write_card_page(card, config.run, out)
