"""Rule ``write_card``: a question that applies to every run, and its answer."""

from __future__ import annotations

from pathlib import Path

from clipaffect.config.models import Config
from clipaffect.studies.registry import CARDS, page_writer


def write_card(name: str, config: Config, results: Path, out: Path) -> None:
    """Write the page, the answer and the tables of a card to ``out``.

    Args:
        name: one of ``CARDS``.
        config: what was run.
        results: ``results/<run>``.
        out: the card's folder.
    """
    page_writer(CARDS[name])(config, results, out)
