"""Studies: one file for each question, with the additional heads that answer it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from clipaffect.config.encoders import Encoder
from clipaffect.config.factors import Combinations, Level, combine
from clipaffect.config.models import Config, Postprocess
from clipaffect.config.presets import preset_values
from clipaffect.config.section import FOLDER_NAME, Section, explain, folder_name, unique
from clipaffect.config.training import Alpha, Recipe, Seed, Training
from clipaffect.core.errors import UserError

FOLDER = Path("config/studies")
PlainName = Annotated[str, AfterValidator(folder_name)]
# Further pages next to those of the studies, each with its own question.
CARDS = (
    "costs",
    "fine-tuning",
    "gain",
    "limits",
    "negative-control",
    "tail-card",
    "traced-step",
    "loss-slices",
)
OWN = "own"  # the variant of a study with answer: beat


class Study(Section):
    """A question and the heads that answer it."""

    question: str = Field(min_length=1, description="The question, used as the page's title.")
    answer: Literal["variants", "alpha", "levels", "points", "beat", "transfer"] = Field(
        "variants",
        description="What the answer reports. `variants`: each variant compared with the run's own "
        "head. `alpha`: the score as a function of alpha. `levels`: each level of one factor "
        "compared with its first. `points`: the contribution of each factor. `beat`: your own head "
        "compared with the published recipe. `transfer`: this run's heads on the frames of other "
        "runs.",
    )
    own: dict[str, Any] = Field(
        default_factory=dict,
        description="With `answer: beat`: recipe keys that differ from the run's, such as a head "
        "or a loss from your own file. Trained at every alpha of the run, and compared with the "
        "preset published_code at the headline alpha. A test list gets a submission file.",
    )
    alphas: Annotated[tuple[Alpha, ...], AfterValidator(unique)] | None = Field(
        None, description="CVaR levels, in addition to the headline alpha and 1."
    )
    seeds: Annotated[tuple[Seed, ...], AfterValidator(unique)] | None = Field(
        None, description="By default those of the run; with `answer: points`, its first two."
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Additional heads by name, each with the recipe keys that differ from the "
        "run's. Trained at the headline alpha, or at the `alphas` that it lists.",
    )

    factors: dict[PlainName, dict[PlainName, Level]] = Field(
        default_factory=dict,
        description="With `answer: levels` or `points`: factors by name, each with its levels. "
        "Every combination is evaluated, from the encoder to the decision.",
    )

    runs: tuple[PlainName, ...] = Field(
        (), description="With `answer: transfer`: names of finished runs with the same encoder."
    )

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.answer == "variants" and not self.variants:
            raise ValueError("a study without 'variants' must have answer: alpha")
        if (self.answer in ("levels", "points")) != bool(self.factors):
            raise ValueError("'factors' must be used with answer: levels or points")
        if (self.answer == "transfer") != bool(self.runs):
            raise ValueError("'runs' must be used with answer: transfer")
        if (self.answer == "beat") != bool(self.own):
            raise ValueError("'own' must be used with answer: beat")
        if self.answer == "levels" and len(self.factors) > 1:
            raise ValueError("answer: levels takes one factor; use points for several")
        if (self.factors or self.own or self.runs) and (self.variants or self.alphas):
            raise ValueError("use only one of 'factors', 'own', 'runs', or 'variants' and 'alphas'")
        if any(len(levels) < 2 for levels in self.factors.values()):
            raise ValueError("a factor needs at least two levels")
        return self


@dataclass(frozen=True)
class Planned:
    """A study applied to a configuration.

    Attributes:
        study: what the file says.
        config: the run's, with the study's heads in place of its grid and its encoders added.
        combinations: those of its factors; none where it has no factors.
    """

    study: Study
    config: Config
    combinations: Combinations

    def encoders(self) -> list[str]:
        """The features that its heads are trained on."""
        if not self.combinations.every:
            return [self.config.encoder]
        return list(
            dict.fromkeys(combination.setting.encoder for combination in self.combinations.every)
        )


def usable_studies(
    config: Config, folder: Path = FOLDER
) -> tuple[dict[str, Planned], dict[str, str]]:
    """The studies of a folder by the name of their file.

    Also returns, by name, the errors of those that cannot be run with this configuration. They do
    not stop the others.
    """
    planned, wrong = {}, {}
    encoders: dict[str, Encoder] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            found = plan_study(config, path.stem, read_study(path))
            for name, entry in found.combinations.encoders.items():
                if encoders.setdefault(name, entry) != entry:
                    raise UserError(
                        f"another study already has an encoder named '{name}'",
                        where=path,
                        fix="rename the study or the level",
                    )
            planned[path.stem] = found
        except UserError as error:
            wrong[path.stem] = str(error)
    return planned, wrong


def read_study(path: Path) -> Study:
    """Read one study.

    Raises:
        UserError: it is not YAML, a key or a value is wrong, or its name is not a plain one.
    """
    fix = "see docs/studies.md for the keys"
    if not FOLDER_NAME.fullmatch(path.stem) or path.stem in CARDS:
        raise UserError(
            "the file name is not a plain name, or is reserved", where=path, fix="rename the file"
        )
    try:
        return Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise UserError(f"invalid YAML: {error}", where=path, fix=fix) from None
    except ValidationError as error:
        raise UserError(explain(error, Study), where=path, fix=fix) from None


def plan_study(config: Config, name: str, study: Study) -> Planned:
    """What a study needs in addition to a run's configuration.

    Raises:
        UserError: a variant or a level has an unknown key or an invalid value.
    """
    own = config.training
    try:
        combinations = combine(config, name, study.factors)
        if study.factors and len(combinations.every) < 2:
            why = "; ".join(f"{k}: {v}" for k, v in combinations.left_out.items())
            raise ValueError(f"no factor can vary with this configuration ({why})")
        values = own.model_dump() | {
            "alphas": _alphas(own, study, combinations),
            "seeds": study.seeds or (own.seeds[:2] if study.answer == "points" else own.seeds),
            "variants": _variants(own, study, combinations),
            "parts": 1,
        }
        if study.own:
            # The published search for lambda, and code of the user's, are for a CPU.
            values |= _published() | {"device": "cpu"}
            values["variants"] = {OWN: _own_variant(own, study.own)}
        training = Training.model_validate(values)
    except ValueError as error:  # pydantic's are such, too
        said = explain(error, Training) if isinstance(error, ValidationError) else str(error)
        raise UserError(
            said,
            where=FOLDER / f"{name}.yaml",
            fix="see docs/studies.md for the keys of a study, and docs/training.md for the recipe",
        ) from None
    encoders = config.encoders | combinations.encoders
    changed = {"training": training, "postprocess": Postprocess(steps=()), "encoders": encoders}
    return Planned(study, config.model_copy(update=changed), combinations)


def _alphas(own: Training, study: Study, combinations: Combinations) -> tuple[float, ...]:
    """The alphas of the recipe that the others are compared with."""
    found = {own.headline_alpha, *(study.alphas or ()), *combinations.alphas()}
    if not (study.own or combinations.every):
        found.add(1.0)  # the run has ERM's heads already
    return tuple(sorted(found))


def _variants(own: Training, study: Study, combinations: Combinations) -> dict[str, dict[str, Any]]:
    """Each variant with its alphas, by default the headline alpha."""
    found = {}
    for name, keys in (study.variants | combinations.variants).items():
        levels = {"alphas": tuple(sorted(combinations.alphas(name) or {own.headline_alpha}))}
        found[name] = (levels if keys.get("loss", own.loss) == "cvar" else {}) | keys
    return found


def _published() -> dict[str, Any]:
    """The recipe of the published code."""
    training = preset_values("published_code")["training"]
    return {key: value for key, value in training.items() if key in Recipe.model_fields}


def _own_variant(training: Training, changed: dict[str, Any]) -> dict[str, Any]:
    """A variant of the run's own recipe, not the published one, with some keys changed."""
    whole = training.recipes()[""].model_dump() | changed
    return whole | ({"alphas": training.alphas} if whole["loss"] == "cvar" else {})
