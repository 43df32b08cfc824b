"""Describe a model's training data, for every place where its predictions are read."""

from __future__ import annotations

from clipaffect.bundle.format import Bundle, TrainedOn

NAMES = {
    "rendered": "rendered faces",
    "aff_wild2": "Aff-Wild2",
    "own": "the author's own recordings",
    "nothing": "nothing",  # of one task, beside others that were trained
    "unknown": "data from an unspecified source",
}
NOT_FOR_PEOPLE = "not for use on real people"
NOT_TRAINED = "not trained (zero-shot classification with text prompts)"
UNKNOWN = "training data not recorded"


def trained_on(bundle: Bundle) -> str:
    """One sentence on the training data of a bundle, such as 'trained on rendered faces (...)'."""
    facts = list(dict.fromkeys(model.trained_on for model in bundle.tasks.values()))
    if not any(facts):
        return UNKNOWN
    if all(one is not None and one.source == "nothing" for one in facts):
        return NOT_TRAINED
    known = [one for one in facts if one is not None]
    said = "; ".join(f"trained on {NAMES[one.source]} ({counts(one)})" for one in known)
    rendered = any(one.source == "rendered" for one in known)
    return f"{said}; {NOT_FOR_PEOPLE}" if rendered else said


def counts(facts: TrainedOn) -> str:
    """People (where they are known), videos and frames of training data."""
    people = "" if facts.people is None else f"{facts.people:,} people, "
    return f"{people}{facts.videos:,} videos, {facts.frames:,} frames"
