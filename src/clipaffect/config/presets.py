"""Presets: named sets of values that a configuration starts from."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml

from clipaffect.config.models import Config


@cache
def preset_values(name: str) -> dict[str, Any]:
    """The values of ``presets/<name>.yaml``."""
    folder = resources.files("clipaffect.config") / "presets"
    values: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return values


def apply_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Merge a configuration's values into those of its preset, if it names a known one.

    Sections are merged key by key. ``encoders`` is replaced as a whole, because otherwise encoders
    that nobody asked for would be fetched and run; the same holds where features are imported.
    """
    name = values.get("preset")
    if not isinstance(name, str) or name not in _names():
        return values  # none, or an unknown one, which validation reports
    merged = dict(preset_values(name))
    if (values.get("features") or {}) and "encoders" not in values:
        merged = {k: v for k, v in merged.items() if k not in ("encoders", "encoder")}
    for key, value in values.items():
        base = merged.get(key)
        if key != "encoders" and isinstance(base, dict) and isinstance(value, dict):
            merged[key] = base | value
        else:
            merged[key] = value
    return merged


def _names() -> set[str]:
    folder = resources.files("clipaffect.config") / "presets"
    return {entry.name.removesuffix(".yaml") for entry in folder.iterdir()}


def preset_changes(config: Config) -> list[str]:
    """The keys in which a configuration differs from its preset, as ``key: preset -> own``."""
    if config.preset is None:
        return []
    own = config.model_dump(mode="json")
    changes = []
    for section, values in preset_values(config.preset).items():
        if section.startswith("encoder") and config.features.imported:
            continue
        if not isinstance(values, dict) or section == "encoders":
            pairs = {section: (values, own[section])}
        else:
            pairs = {f"{section}.{key}": (v, own[section][key]) for key, v in values.items()}
        for key, (preset, value) in pairs.items():
            if not _same(preset, value):
                changes.append(f"{key}: {preset} -> {value}" if section != "encoders" else key)
    return changes


def _same(preset: Any, value: Any) -> bool:
    """Whether a value equals the preset's; keys missing from the preset are ignored."""
    if isinstance(preset, dict) and isinstance(value, dict):
        return all(_same(preset[key], value.get(key)) for key in preset)
    return bool(preset == value)
