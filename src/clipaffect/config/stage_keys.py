"""Stage versions and the settings each stage depends on: what makes a rule run again.

A rule gets the version and its sections as one JSON string. A version is raised by hand when a
stage's output changes (golden tests fail otherwise), so that fixing a docstring does not cost two
weeks of embedding.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from typing import Any, TypeVar

from clipaffect.config.encoders import Encoder
from clipaffect.config.load import parse_config
from clipaffect.config.models import Config, Evaluation
from clipaffect.config.section import Section
from clipaffect.config.training import Training
from clipaffect.core.hashing import canonical_json
from clipaffect.core.tasks import Task

SectionType = TypeVar("SectionType", bound=Section)

# Keyed by the kind of entry in the store, which is the stage's name.
VERSIONS = {
    "dataset": 5,
    "frames": 3,
    "detections": 5,
    "embeddings": 3,
    "encoders": 1,
    "imported": 1,
    "joined": 1,
    "table": 2,
    "copies": 2,
    "heads": 5,
    "prompts": 1,
    "references": 4,
    "evaluation": 7,
    "comparison": 2,
    "postprocess": 4,
    "limits": 1,
    "final": 1,
    "control": 1,
    "agreement": 1,
    "fine_tuning": 3,
    "submission": 2,
    "model": 4,
    "prediction": 1,
    "report": 12,
}


# What decides which training frames a head is trained on.
TRAINING_ROWS = ("select_on", "inner_share", "drop_incomplete_rows")


def shard_names(shards: int) -> list[str]:
    """File names, without suffix, of a run's shards."""
    return [f"{number:04d}" for number in range(shards)]


def settings_json(config: Config, stage: str, *sections: str) -> str:
    """The named sections of a configuration and the stage's version, as canonical JSON.

    A section is a top-level key; ``encoders.NAME`` is that encoder, as ``encoder``; ``tasks`` the
    tasks that are trained, ``tasks.NAME`` one of them, as ``task``; ``features.NAME`` the files of
    an import, as ``feature``; ``training_rows`` which frames heads are trained on;
    ``near_copies`` what is done with copies; ``needs_images`` whether an encoder looks at them;
    ``config`` is everything.
    """
    values = config.model_dump(mode="json")
    # Spelt out: JSON's sorted keys would lose the order in which the tasks are named.
    values["training"]["tasks"] = list(config.tasks())
    everything = deepcopy(values)
    del everything["prediction"]  # no result of the run depends on it
    # Only reported to readers: a change must rebuild nothing else.
    del values["data"]["source"]
    if stage not in ("report", "model"):
        del everything["data"]["source"]
    values["near_copies"] = values["data"].pop("near_copies")  # of one stage alone
    values["features"] = values["features"]["import"]
    values["needs_images"] = bool(config.encoders)
    values["tasks"] = {name: asdict(task) for name, task in config.tasks().items()}
    values["training_rows"] = {name: values["training"][name] for name in TRAINING_ROWS}
    chosen: dict[str, object] = {"version": VERSIONS[stage]}
    for section in sections:
        head, _, name = section.partition(".")
        if name:
            chosen[head.removesuffix("s")] = values[head][name]
        else:
            chosen[section] = everything if section == "config" else values[section]
    return canonical_json(chosen)


class StageSettings:
    """The settings written by ``settings_json``, as read by the stage's command."""

    def __init__(self, text: str) -> None:
        self.values: dict[str, Any] = json.loads(text)

    def section(self, name: str, model: type[SectionType]) -> SectionType:
        """A section as its model; the Snakefile has validated it."""
        return model.model_validate(self.values[name])

    @property
    def config(self) -> Config:
        """The whole configuration."""
        return parse_config(self.values["config"], "--settings")

    @property
    def training(self) -> Training:
        """The section ``training``."""
        return self.section("training", Training)

    @property
    def evaluation(self) -> Evaluation:
        """The section ``evaluation``."""
        return self.section("evaluation", Evaluation)

    @property
    def encoder(self) -> Encoder:
        """The one encoder of ``encoders.NAME``."""
        return self.section("encoder", Encoder)

    @property
    def task(self) -> Task:
        """The one task of ``tasks.NAME``."""
        return Task.from_json(self.values["task"])


def evaluated(config: Config, task: str) -> list[str]:
    """The sections that a task's scores depend on, for ``settings_json``."""
    encoder = [f"encoders.{config.encoder}"] if config.encoder in config.encoders else []
    return ["training", "evaluation", f"tasks.{task}", *encoder]
