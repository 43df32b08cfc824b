"""Read a configuration and report errors in terms of the user's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from clipaffect.config.models import Config
from clipaffect.config.presets import apply_preset
from clipaffect.config.section import explain
from clipaffect.core.errors import UserError

REFERENCE = "see docs/configuration.md for all keys, their defaults and bounds"


def load_config(path: Path) -> Config:
    """Read a YAML configuration file.

    Raises:
        UserError: the file is missing, is not YAML, or a key or value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            "no such configuration file", where=path, fix="give an existing file, as in config/"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte {error.start} is not valid UTF-8", where=path, fix="save the file as UTF-8"
        ) from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(
            f"invalid YAML: {problem}", where=line, fix="check the indentation and the colons"
        ) from None
    return parse_config(values if values is not None else {}, str(path))


def parse_config(values: Any, where: str) -> Config:
    """Validate configuration values (``where`` names their source in messages).

    Raises:
        UserError: one line for each wrong key or value.
    """
    if not isinstance(values, dict):
        raise UserError(
            "the configuration must be a mapping of keys to values", where=where, fix=REFERENCE
        )
    try:
        return Config.model_validate(apply_preset(values))
    except ValidationError as error:
        raise UserError(explain(error, Config), where=where, fix=REFERENCE) from None
