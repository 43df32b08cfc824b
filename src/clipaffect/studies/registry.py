"""The module for each question: a new study or card is one file and one line here.

Modules are named, not imported: a job loads only its own.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# Pages of studies, by the study's ``answer``.
STUDIES = {
    "alpha": "write_study:write_study",
    "beat": "write_study:write_study",
    "levels": "factor_levels:write_levels",
    "points": "shapley:write_points",
    "transfer": "transfer:write_transfer",
    "variants": "write_study:write_study",
}
# Cards, by their folder under ``results/<run>/studies``.
CARDS = {
    "costs": "costs:write_costs",
    "fine-tuning": "fine_tuning:write_fine_tuning",
    "gain": "cvar_gain:write_gain",
    "limits": "robustness:write_limits",
    "negative-control": "negative_control:write_negative_control",
    "tail-card": "hard_examples:write_tail_card",
    "traced-step": "traced_step:write_traced_step",
}


def page_writer(place: str) -> Callable[..., Any]:
    """The function that an entry of a registry names."""
    module, function = place.split(":")
    found: Callable[..., Any] = getattr(import_module(f"clipaffect.studies.{module}"), function)
    return found
