"""What every part of the configuration shares."""

from __future__ import annotations

import re
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

# Names become folders and words of commands.
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Value = TypeVar("Value", float, str)


class Section(BaseModel):
    """A part of the configuration; keys it does not know are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True
    )


def messages(error: ValidationError) -> str:
    """What a model says is wrong, in one line."""
    return "; ".join(detail["msg"] for detail in error.errors())


def folder_name(value: str) -> str:
    """A name that may become a folder's; for pydantic's ``AfterValidator``."""
    if not FOLDER_NAME.fullmatch(value):
        raise ValueError(
            "must be a plain name: letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return value


def unique(values: tuple[Value, ...] | None) -> tuple[Value, ...] | None:
    """Values that each stand once; for pydantic's ``AfterValidator``."""
    names = [v if isinstance(v, str) else f"{v:g}" for v in values or ()]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} twice; each value may stand once")
    return values
