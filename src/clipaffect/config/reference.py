"""Generate the JSON schema and the reference page from the models."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from clipaffect.config.models import Config
from clipaffect.config.section import model_in

HEAD = """# Configuration reference

Generated from `src/clipaffect/config/models.py` by `clipaffect docs`; do not edit by hand.
Keys that are not listed here are rejected. A configuration contains only what differs from the
defaults, which are those of the demo (`encoders`: `tiny-clip` and `pixels`, as in
config/config.yaml). Paths are relative to the folder in which Snakemake is called. Numbers may be
written as `0.001` or `1e-3`.

An encoder of kind `open_clip` needs `model`, `activation` and exactly one of `tag`, `file` (with
`sha256`), `asset` and `random`. In addition to open_clip's own models there are `clipaffect-tiny`
(asset `tiny-clip`, which ships with the package), `clipaffect-dinov2-s14` (asset `dinov2-s14`),
`clipaffect-mobilenet-v2` (asset `mobilenet-v2`) and `clipaffect-micro` (for tests).
[encoders.md](encoders.md) compares them.
"""


def json_schema() -> str:
    """The JSON schema of the configuration."""
    return json.dumps(Config.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _rows(model: type[BaseModel], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = model_in(field.annotation)
        rows.append(f"| `{key}` | {_default(field)} | {_bounds(field)}{field.description} |")
        if inner is not None:
            several = "dict[" in str(field.annotation)
            rows.extend(_rows(inner, f"{key}.<name>." if several else f"{key}."))
    return rows


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, (BaseModel, dict)):
        return "see below"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{json.dumps(value)}`"


def _bounds(field: FieldInfo) -> str:
    words = []
    for rule in field.metadata:
        for name, text in (("gt", "> "), ("ge", "≥ "), ("lt", "< "), ("le", "≤ ")):
            if getattr(rule, name, None) is not None:
                words.append(text + str(getattr(rule, name)))
    choices = _choices(field.annotation)
    if choices:
        words.append("one of " + ", ".join(choices))
    return f"({'; '.join(words)}) " if words else ""


def _choices(annotation: Any) -> list[str]:
    """The allowed values of a key, also inside ``... | None``."""
    found: list[str] = []
    for argument in getattr(annotation, "__args__", ()):
        found += [argument] if isinstance(argument, str) else _choices(argument)
    return found


def reference_page() -> str:
    """The Markdown page that lists all keys."""
    rows = ["| key | default | meaning |", "|---|---|---|", *_rows(Config, "")]
    return HEAD + "\n" + "\n".join(rows) + "\n"
