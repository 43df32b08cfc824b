"""Read a configuration; say what is wrong with it in the user's words."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from clipaffect.config.models import Config
from clipaffect.config.presets import apply_preset
from clipaffect.core.errors import UserError

REFERENCE = "docs/configuration.md lists every key, its default and its bounds"


def load_config(path: Path) -> Config:
    """Read a YAML configuration file.

    Raises:
        UserError: the file is missing, is not YAML, or a key or value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            "no such configuration file", where=path, fix="name one that exists, under config/"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte {error.start} is not UTF-8", where=path, fix="save the file as UTF-8"
        ) from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(
            f"the file is not YAML: {problem}", where=line, fix="check indentation and colons"
        ) from None
    return parse_config(values if values is not None else {}, str(path))


def parse_config(values: Any, where: str) -> Config:
    """Validate configuration values (``where`` names their source in messages).

    Raises:
        UserError: one line for each wrong key or value.
    """
    if not isinstance(values, dict):
        raise UserError(
            "a configuration is a mapping of keys to values", where=where, fix=REFERENCE
        )
    try:
        return Config.model_validate(apply_preset(values))
    except ValidationError as error:
        details = error.errors()
        # An element that was refused also leaves its list too short: say it once.
        inner = {detail["loc"][:-1] for detail in details}
        lines = [_explain(d) for d in details if d["type"] != "too_short" or d["loc"] not in inner]
        raise UserError("; ".join(lines), where=where, fix=REFERENCE) from None


def _explain(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "the configuration"
    if detail["type"] == "extra_forbidden":
        known = _known_keys(detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
        return f"unknown key '{key}': {hint}"
    message = detail["msg"].removeprefix("Value error, ")
    for word, plain in (("tuple", "list"), ("dictionary", "mapping of names to values")):
        message = message.replace(word, plain)
    value = detail["input"]
    shown = "" if isinstance(value, (dict, BaseModel)) else f" is {value!r}"
    return f"'{key}'{shown}: {message[0].lower()}{message[1:]}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section at ``location``; a name in a mapping stays in the mapping's section."""
    model: type[BaseModel] = Config
    for part in location:
        field = _fields(model).get(str(part))
        if field is not None:
            model = model_in(field.annotation) or model
    return list(_fields(model))


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A section's fields by the key that is written in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The section inside a type such as ``dict[str, Encoder]`` or ``Subset | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := model_in(inner):
            return found
    return None
