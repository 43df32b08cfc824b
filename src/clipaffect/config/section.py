"""Helpers shared by all sections of the configuration."""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

# Names become folders and command-line arguments.
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Value = TypeVar("Value", float, str)


class Section(BaseModel):
    """A section of the configuration; unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True
    )


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Explain a validation error to the user: key, value and reason of each mistake.

    Args:
        error: of the model.
        model: the section that was validated.
        prefix: of its keys, such as ``variants.mine``.
    """
    details = error.errors()
    # A rejected element also leaves its list too short: report it once.
    inner = {detail["loc"][:-1] for detail in details}
    return "; ".join(
        _explained(detail, model, prefix)
        for detail in details
        if detail["type"] != "too_short" or detail["loc"] not in inner
    )


def _explained(detail: ErrorDetails, model: type[BaseModel], prefix: str) -> str:
    key = ".".join([*filter(None, [prefix]), *(str(part) for part in detail["loc"])])
    if detail["type"] == "extra_forbidden":
        known = _known_keys(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"valid keys: {', '.join(known)}"
        return f"unknown key '{key}': {hint}"
    message = detail["msg"].removeprefix("Value error, ")
    for word, plain in (("tuple", "list"), ("dictionary", "mapping of names to values")):
        message = message.replace(word, plain)
    value = detail["input"]
    shown = "" if isinstance(value, (dict, BaseModel)) else f" is {value!r}"
    if not key:
        return message
    return f"'{key}'{shown}: {message[0].lower()}{message[1:]}"


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section at ``location``; a name in a mapping stays in the mapping's section."""
    for part in location:
        field = _fields(model).get(str(part))
        if field is not None:
            model = model_in(field.annotation) or model
    return list(_fields(model))


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A section's fields, by the key used in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The section inside a type such as ``dict[str, Encoder]`` or ``Subset | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := model_in(inner):
            return found
    return None


def folder_name(value: str) -> str:
    """Check that a name is valid as a folder name; for pydantic's ``AfterValidator``."""
    if not FOLDER_NAME.fullmatch(value):
        raise ValueError(
            "must be a plain name: letters, digits, '.', '_' and '-', with a letter or digit first"
        )
    return value


def unique(values: tuple[Value, ...] | None) -> tuple[Value, ...] | None:
    """Check that values are distinct; for pydantic's ``AfterValidator``."""
    names = [v if isinstance(v, str) else f"{v:g}" for v in values or ()]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"lists {', '.join(repeated)} twice; each value may occur once")
    return values
