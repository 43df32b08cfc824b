"""Zero-shot CLIP: find the prompt whose embedding is nearest to that of a face.

The reference of Radford et al. 2021, section 3.1: a class is the mean of its prompts' normalised
text features. A label such as an action unit is present if the face is nearer to its prompts than
to those of its absence.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from clipaffect.config.encoders import Encoder
from clipaffect.config.models import ZeroShot
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.store import Store
from clipaffect.core.tasks import Task
from clipaffect.core.tensors import read_tensors, write_tensors
from clipaffect.encoders.captions import EXPRESSION_NAMES, OPENINGS, UNIT_NAMES
from clipaffect.encoders.kinds.open_clip import build_model
from clipaffect.encoders.registry import encoder_record
from clipaffect.encoders.tokenizer import tokenize
from clipaffect.encoders.untrained import know_own_models, open_clip

TINY = "tiny-clip"
UNIT = re.compile(r"AU0*(\d+)")
WORDS = {name.lower(): word for name, word in EXPRESSION_NAMES.items()} | {
    "other": "another emotion"
}


def has_text_tower(settings: Encoder) -> bool:
    """Whether an encoder has trained text features whose tokenizer needs no model hub.

    DINOv2, MobileNetV2, random weights and pixels have none; SigLIP's tokenizers lie on a hub.
    """
    if settings.kind != "open_clip" or settings.random is not None:
        return False
    if settings.asset is not None:
        return settings.asset == TINY
    know_own_models()
    stated = open_clip().get_model_config(settings.model) or {}
    return not stated.get("text_cfg", {}).get("hf_tokenizer_name")


def task_prompts(task: Task, stated: ZeroShot) -> list[tuple[list[str], list[str]]]:
    """The prompts for the presence of each target and, for labels, for its absence."""
    own = stated.prompts.get(task.name, {})
    absent = list(stated.absent) if task.multilabel else []
    found = []
    for target in task.targets:
        prompts = list(own.get(target, ())) or [_prompt(o, target, task) for o in OPENINGS]
        found.append((prompts, absent))
    return found


def _prompt(opening: str, target: str, task: Task) -> str:
    if not task.multilabel:
        return f"{opening} showing {WORDS.get(target.lower(), target.lower())}"
    unit = UNIT.fullmatch(target)
    number = int(unit[1]) if unit else None
    return f"{opening} with {UNIT_NAMES.get(number, target.lower()) if number else target.lower()}"


def prompt_features(
    settings: Encoder, task: Task, stated: ZeroShot, assets: Path, store: Store
) -> dict[str, Tensor]:
    """``present`` (targets, d), for labels ``absent`` (targets, d), and the logits' ``scale``.

    Cached in the store, so that the text tower is loaded once for all runs.
    """
    prompts = task_prompts(task, stated)
    key = {
        "version": VERSIONS["prompts"],
        "encoder": encoder_record(settings, assets, "cpu"),
        "prompts": prompts,
    }

    def make(folder: Path) -> None:
        model = build_model(settings, assets).eval()
        tokens = tokenize if settings.asset == TINY else open_clip().get_tokenizer(settings.model)

        @torch.inference_mode()
        def mean(texts: list[str]) -> Tensor:
            features = model.encode_text(tokens(texts), normalize=True).mean(dim=0)
            return features / features.norm()

        found = {"present": torch.stack([mean(present) for present, _ in prompts])}
        if task.multilabel:
            found["absent"] = torch.stack([mean(absent) for _, absent in prompts])
        found["scale"] = model.logit_scale.detach().exp()
        write_tensors(folder / "prompts.safetensors", found)

    return read_tensors(store.get_or_make("prompts", key, make) / "prompts.safetensors")
