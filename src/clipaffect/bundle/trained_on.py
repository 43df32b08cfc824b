"""Describe a model's training data, for every place where its predictions are read."""

from __future__ import annotations

from clipaffect.bundle.format import Bundle, Smooth, TrainedOn

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
OTHER_RATE = 1.5  # from this factor on, a video's frame rate is told to differ


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


def rate_remark(bundle: Bundle, rate: float | None) -> str | None:
    """A sentence if a video's frame rate makes smoothing cover another time than in training.

    Args:
        bundle: the model.
        rate: frames per second of the video; None if it is not known.
    """
    for name, model in bundle.tasks.items():
        own = model.trained_on.frame_rate if model.trained_on is not None else None
        smooths = any(isinstance(s, Smooth) and s.choice.kind != "none" for s in model.steps)
        if rate is None or own is None or not smooths:
            continue
        if not 1 / OTHER_RATE <= rate / own <= OTHER_RATE:
            span = "a shorter" if rate > own else "a longer"
            return (
                f"{rate:.3g} frames per second, and {own:.3g} in the training videos: smoothing "
                f"of {name} covers {span} time than in training"
            )
    return None
