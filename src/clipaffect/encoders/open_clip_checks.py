"""What can be told of an open_clip encoder's configuration before any weights are loaded."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from clipaffect.config.encoders import Encoder
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import file_digest
from clipaffect.encoders.untrained import know_own_models, open_clip


def check(settings: Encoder, name: str) -> None:
    """Check model, tag, activation and file; see ``registry.check_encoder``."""
    where = f"encoders.{name}"
    know_own_models()
    config = open_clip().get_model_config(settings.model)
    if config is None:
        raise UserError(
            f"open_clip {version('open_clip_torch')} has no model '{settings.model}'",
            where=f"{where}.model",
            fix="list the models: python -c 'import open_clip; print(open_clip.list_models())'",
        )
    vision = config["vision_cfg"]
    # These image towers have an activation of their own, told from the loaded network.
    own = isinstance(vision.get("layers"), list) or "timm_model_name" in vision
    runs = "quickgelu" if config.get("quick_gelu", False) else "gelu"
    if settings.tag is not None:
        check_tag(settings.model, settings.tag, where)
        _check_trained(settings, where)
    if not own and runs != settings.activation:
        raise wrong_activation(settings, {runs}, where)
    if settings.file is not None:
        _check_file(Path(settings.file), settings, where)


def check_tag(model: str, tag: str, where: str) -> None:
    """Check that open_clip has weights of a model under a tag."""
    tags = open_clip().list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise UserError(
            f"open_clip has no weights '{tag}' for '{model}'",
            where=f"{where}.tag",
            fix=f"use one of: {', '.join(tags) or 'none; give a file instead'}",
        )


def _check_trained(settings: Encoder, where: str) -> None:
    trained = open_clip().get_pretrained_cfg(settings.model, settings.tag).get("quick_gelu", False)
    if trained != (settings.activation == "quickgelu"):
        right = "quickgelu" if trained else "gelu"
        raise UserError(
            f"the weights '{settings.tag}' were trained with {right}, not {settings.activation}",
            where=f"{where}.activation",
            fix=f"set activation: {right}"
            + (" and use a model name that ends in -quickgelu" if trained else ""),
        )


def _check_file(path: Path, settings: Encoder, where: str) -> None:
    if not path.is_file():
        raise UserError(
            "the weights file does not exist", where=path, fix=f"fetch it, or correct {where}.file"
        )
    found = file_digest(path)
    if found != settings.sha256:
        raise UserError(
            f"the weights have sha256 {found}, expected {settings.sha256}",
            where=path,
            fix=f"fetch the correct file, or update {where}.sha256 if this file is intended",
        )


def wrong_activation(settings: Encoder, runs: set[str], where: str) -> UserError:
    """The error for weights that were trained with another activation than the model uses."""
    return UserError(
        f"'{settings.model}' uses {' and '.join(sorted(runs))}, but the weights were trained with "
        f"{settings.activation}: every embedding would be wrong",
        where=f"{where}.model and .activation",
        fix="use a model name with -quickgelu for quickgelu weights, and without it for gelu",
    )
