"""A model without training: zero-shot CLIP by text prompts, in the form of every other model.

Each class is represented by the mean of its prompts' text features, and a face is assigned the
closest class (Radford et al. 2021, section 3.1). This is a linear head without bias on
L2-normalised features, so the same code as for trained heads writes the tables and pages.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from clipaffect._version import __version__
from clipaffect.bundle.files import bundle_files, cautions, exported_encoder
from clipaffect.bundle.format import FORMAT, VERSION, Bundle
from clipaffect.bundle.load import OpenBundle, open_bundle
from clipaffect.bundle.preprocessing import describe
from clipaffect.config.encoders import Encoder, weights_folder
from clipaffect.config.load import parse_config
from clipaffect.config.models import Config
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.assets import MANIFEST
from clipaffect.core.errors import UserError
from clipaffect.core.files import write_text
from clipaffect.core.hashing import digest
from clipaffect.core.layout import Model
from clipaffect.core.store import Store
from clipaffect.core.tasks import Task
from clipaffect.core.tensors import write_tensors
from clipaffect.encoders.fetch_weights import fetch_weights
from clipaffect.encoders.prompts import has_text_tower, prompt_features, task_prompts
from clipaffect.encoders.registry import encoder_record

ZERO_SHOT = "zero-shot"  # in place of a model's folder
PROTOCOL = (
    "Zero-shot: no training and no evaluation. Predictions compare each face with text prompts. "
    "The accuracy on your videos is unknown."
)


def default_config() -> Config:
    """OpenAI's CLIP ViT-L/14, on aligned faces: the preset without data."""
    return parse_config({"preset": "recommended", "run": ZERO_SHOT}, "the preset 'recommended'")


def zero_shot_model(config: Config, assets: Path) -> OpenBundle:
    """Build the zero-shot model of a configuration's encoder, or reuse the cached one.

    Args:
        config: names the encoder, the prompts, the tasks and how faces are cut.
        assets: folder of fetched assets. Weights named by a tag are downloaded to it, and the
            model is cached in it.

    Raises:
        UserError: the encoder has no text tower, or its weights cannot be fetched.
    """
    name, settings, tasks = config.encoder, _text_encoder(config), config.tasks()
    if settings.tag is not None:
        manifest = assets / weights_folder(settings.model, settings.tag) / MANIFEST
        if not manifest.is_file():
            fetch_weights(settings.model, settings.tag, assets)
    key = {
        "name": name,
        "encoder": encoder_record(settings, assets, "cpu"),
        "stated": settings.model_dump(mode="json", exclude={"file"}),
        "tasks": [[asdict(task), task_prompts(task, config.zero_shot)] for task in tasks.values()],
        "faces": config.faces.model_dump(mode="json"),
        "versions": {stage: VERSIONS[stage] for stage in ("prompts", "model")},
    }

    def write(folder: Path) -> None:
        _write(config, settings, tasks, assets, folder)

    folder = Store(assets / ZERO_SHOT).get_or_make("model", key, write)
    return open_bundle(folder, {name: Path(settings.file)} if settings.file is not None else {})


def _text_encoder(config: Config) -> Encoder:
    settings = config.encoders.get(config.encoder)
    if settings is not None and has_text_tower(settings):
        return settings
    able = [name for name, own in config.encoders.items() if has_text_tower(own)]
    listed = f"in this configuration: {', '.join(able)}" if able else "this configuration has none"
    raise UserError(
        f"zero-shot prediction cannot use '{config.encoder}': it has no supported text encoder",
        where="encoder",
        fix=f"set 'encoder' to a CLIP model ({listed}), such as tiny-clip, or an open_clip model "
        "with trained weights, such as ViT-L-14-quickgelu with the tag openai",
    )


def _write(
    config: Config, settings: Encoder, tasks: dict[str, Task], assets: Path, folder: Path
) -> None:
    name = config.encoder
    Model(folder).heads("task").parent.mkdir(parents=True)
    stored = exported_encoder(settings, name, assets, folder, include_weights=False)
    entries = {
        task: _write_task(config, settings, own, assets, folder) for task, own in tasks.items()
    }
    steps = describe(config.faces, {name: settings})
    write_text(Model(folder).preprocessing, json.dumps(steps, indent=2) + "\n")
    bundle: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "run": ZERO_SHOT,
        "licensed": False,
        "faces": config.faces.model_dump(mode="json"),
        "encoders": {name: stored.model_dump(mode="json")},
        "features": {name: (name,)},
        "tasks": entries,
        "cautions": cautions({name: settings}),
        "stages": dict(VERSIONS),
        "packages": {"clipaffect": __version__},
        "config": digest(config.model_dump(mode="json")),
        "files": bundle_files(folder),
    }
    checked = Bundle.model_validate(bundle).model_dump(mode="json")
    write_text(Model(folder).bundle, json.dumps(checked, indent=1) + "\n")


def _write_task(
    config: Config, settings: Encoder, task: Task, assets: Path, folder: Path
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as store:
        found = prompt_features(settings, task, config.zero_shot, assets, Store(Path(store)))
    direction = found["present"].float()
    if task.multilabel:
        direction = direction - found["absent"].float()
    weight = (found["scale"].float() * direction).contiguous()
    path = Model(folder).heads(task.name)
    head = f"{config.encoder}/seed=0/output"
    write_tensors(path, {f"{head}.weight": weight, f"{head}.bias": torch.zeros(len(weight))})
    return {
        "targets": task.targets,
        "multilabel": task.multilabel,
        "file": path.relative_to(folder).as_posix(),
        "heads": [
            {
                "features": config.encoder,
                "seeds": [0],
                "inputs": weight.shape[1],
                "hidden_layers": 0,
                "width": 1,
                "unit": True,
            }
        ],
        "alpha": None,
        "steps": [],
        "macro_f1": None,
        "low": None,
        "high": None,
        "after_steps": None,
        "protocol": PROTOCOL,
        "trained_on": {"source": "nothing", "people": 0, "videos": 0, "frames": 0},
    }
