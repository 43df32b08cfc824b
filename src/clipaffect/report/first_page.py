"""The page that stands while the long stages run: what was found, and what is to come.

It needs neither the networks nor the charts, so that it is there within seconds.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from clipaffect.config.models import Config
from clipaffect.config.stage_keys import shard_names
from clipaffect.core.files import write_text
from clipaffect.core.frame_status import MEANING, FrameStatus
from clipaffect.core.hashing import digest
from clipaffect.core.layout import Layout
from clipaffect.core.parquet import read_table
from clipaffect.core.split_names import folds_among
from clipaffect.report.pages import page_environment
from clipaffect.report.results import read_summary


def first_page(config: Config, folder: Path, out: Path) -> None:
    """Write the page that stands while the long stages run."""
    frames = [
        read_table(Layout(folder).frames(shard), ["video", "status"])
        for shard in (shard_names(config.data.shards) if config.encoders else [])
    ]
    statuses = pd.concat(frames)["status"].value_counts() if frames else pd.Series(dtype=int)
    page = (
        page_environment()
        .get_template("start.html")
        .render(
            config=config,
            summary=read_summary(folder),
            statuses=[
                (name, MEANING[FrameStatus(name)], count) for name, count in statuses.items()
            ],
            heads=len(config.training.heads()) * len(config.tasks()) * _folds(folder),
            config_yaml=config_yaml(config),
            token=run_token(config, folder),
        )
    )
    write_text(out, page)


def run_token(config: Config, folder: Path) -> str:
    """What tells the report of this configuration and data from an earlier one."""
    return digest({"config": config.settings(), "data": read_summary(folder)})[:16]


def _folds(folder: Path) -> int:
    """How many folds the summary speaks of; 1 without."""
    return len(folds_among(next(iter(read_summary(folder)["tasks"].values()))))


def config_yaml(config: Config) -> str:
    """The whole configuration, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False)
