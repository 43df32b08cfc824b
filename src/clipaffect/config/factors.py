"""All combinations of a study's factors, each with its encoder, recipe, alpha and decision."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from clipaffect.config.encoders import TWINS, Encoder
from clipaffect.config.models import Config
from clipaffect.config.section import Section, explain
from clipaffect.config.training import Alpha
from clipaffect.core.setting import Setting

SOURCES = ("tag", "file", "sha256", "asset", "random")


class Level(Section):
    """What one level of a factor changes; everything else is as in the run."""

    encoder: dict[str, Any] = Field(
        default_factory=dict,
        description="Keys that differ from the run's encoder; with `model` or `kind`, a separate "
        "encoder. A source of weights (`asset`, `tag`, `file`, `random`) replaces the run's.",
    )
    recipe: dict[str, Any] = Field(
        default_factory=dict, description="Recipe keys that differ from the run's."
    )
    alpha: Alpha | None = Field(
        None, description="CVaR level: 1 (ERM), or by default the headline alpha."
    )
    decision: Literal["plain", "prior"] = Field(
        "plain",
        description="`plain`: the most probable class, or a threshold of 0.5; `prior`: each "
        "probability relative to its share of the training labels.",
    )
    smooth: int = Field(
        1, ge=1, le=1001, description="Average the scores over this many frames (odd); 1: off."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.smooth % 2 == 0:
            raise ValueError(f"'smooth' {self.smooth} is even: the window must centre on a frame")
        if self.recipe.get("loss", "cvar") != "cvar" or "alphas" in self.recipe:
            raise ValueError(
                "a level's recipe cannot change 'loss' or 'alphas': compare losses as 'variants'"
            )
        return self


@dataclass(frozen=True)
class Combination:
    """One combination.

    Attributes:
        levels: the level of each factor by its name.
        setting: the heads: encoder, variant and alpha.
        decision, smooth: see ``Level``.
    """

    levels: dict[str, str]
    setting: Setting
    decision: str
    smooth: int


@dataclass(frozen=True)
class Combinations:
    """All combinations of a study's factors.

    Attributes:
        every: the combinations.
        encoders: those that the run does not have, by name.
        variants: recipe keys by the name of the variant.
        left_out: factors that cannot vary under this configuration, with the reason.
    """

    every: list[Combination]
    encoders: dict[str, Encoder]
    variants: dict[str, dict[str, Any]]
    left_out: dict[str, str]

    def alphas(self, variant: str | None = None) -> set[float]:
        """The levels of all heads, or of one variant's."""
        settings = [own.setting for own in self.every]
        known = [s for s in settings if variant is None or s.variant == variant]
        return {s.alpha for s in known if s.alpha is not None}


def combine(config: Config, study: str, factors: dict[str, dict[str, Level]]) -> Combinations:
    """Combine the factors that can vary under a configuration.

    Raises:
        ValueError: two levels change one key, an encoder is invalid, or an alpha has no heads.
    """
    if not factors:
        return Combinations([], {}, {}, {})
    left_out = {name: why for name, own in factors.items() if (why := _fixed(config, own))}
    kept = {name: own for name, own in factors.items() if name not in left_out}
    encoders: dict[str, Encoder] = {}
    variants: dict[str, dict[str, Any]] = {}
    every = []
    for names in product(*kept.values()):
        levels = dict(zip(kept, names, strict=True))
        chosen = {factor: kept[factor][name] for factor, name in levels.items()}
        encoder = _merged(levels, {factor: own.encoder for factor, own in chosen.items()})
        recipe = _merged(levels, {factor: own.recipe for factor, own in chosen.items()})
        alphas = {own.alpha for own in chosen.values() if own.alpha is not None}
        alpha = alphas.pop() if alphas else config.training.headline_alpha
        if alphas or alpha not in (config.training.headline_alpha, 1.0):
            raise ValueError(
                f"'alpha' must be 1 or the headline's, {config.training.headline_alpha:g}"
            )
        decision = "prior" if any(own.decision == "prior" for own in chosen.values()) else "plain"
        smooth = max(own.smooth for own in chosen.values())
        name, entry = _encoder(config, study, encoder)
        if entry is not None and encoders.setdefault(name, entry) != entry:
            raise ValueError(f"two encoders would have the name '{name}': rename a level")
        if recipe.keys and variants.setdefault(recipe.name, recipe.keys) != recipe.keys:
            raise ValueError(f"two recipes would have the name '{recipe.name}': rename a level")
        setting = Setting("head", name, recipe.name, alpha)
        every.append(Combination(levels, setting, decision, smooth))
    return Combinations(every, encoders, variants, left_out)


def _fixed(config: Config, levels: dict[str, Level]) -> str:
    """Why a factor cannot vary here; "" if it can."""
    changed = {key for level in levels.values() for key in level.encoder}
    alone = all(
        "model" in level.encoder or "kind" in level.encoder or not level.encoder
        for level in levels.values()
    )
    if "crop" in changed and not config.data.searches_faces:
        return "the images are already cropped"
    if changed and not alone and config.encoder not in config.encoders:
        return f"'{config.encoder}' is not an encoder of the run"
    if "swap_activation" in changed and not alone:
        runs = config.encoders[config.encoder].activation
        if runs not in TWINS:
            return f"'{config.encoder}' uses {runs or 'none'}, which cannot be swapped"
    return ""


@dataclass(frozen=True)
class _Merged:
    """The merged keys of several levels, and a name for them; "" if nothing changes."""

    name: str
    keys: dict[str, Any]


def _merged(levels: dict[str, str], changes: dict[str, dict[str, Any]]) -> _Merged:
    keys: dict[str, Any] = {}
    for factor, own in changes.items():
        if twice := keys.keys() & own.keys():
            raise ValueError(f"two factors change '{min(twice)}'; one of them is '{factor}'")
        keys |= own
    name = "-".join(f"{f}.{levels[f]}" for f, own in changes.items() if own)
    return _Merged(name, keys)


def _encoder(config: Config, study: str, merged: _Merged) -> tuple[str, Encoder | None]:
    """The name of a combination's features, and its encoder entry if the run lacks it."""
    if not merged.keys:
        return config.encoder, None
    base: dict[str, Any] = {}
    if not merged.keys.keys() & {"model", "kind"}:
        base = config.encoders[config.encoder].model_dump()
        if merged.keys.keys() & set(SOURCES):
            base |= dict.fromkeys(SOURCES)
    try:
        entry = Encoder.model_validate(base | merged.keys)
    except ValidationError as error:
        raise ValueError(f"the encoder of '{merged.name}': {explain(error, Encoder)}") from None
    if entry.crop == config.faces.crop:
        entry = entry.model_copy(update={"crop": None})
    for name, known in config.encoders.items():
        if known == entry:
            return name, None
    return f"{study}-{merged.name}", entry
