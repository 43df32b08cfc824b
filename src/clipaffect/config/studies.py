"""Studies: one file a question, with the heads that answer it beside the run's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from clipaffect.config.models import Config, Postprocess
from clipaffect.config.section import FOLDER_NAME, Section, unique
from clipaffect.config.training import Alpha, Seed, Training
from clipaffect.errors import UserError

FOLDER = Path("config/studies")
# Pages beside the studies', each with a question of its own.
CARDS = ("gain", "tail-card", "traced-step", "loss-slices")


class Study(Section):
    """A question and the heads that answer it."""

    question: str = Field(min_length=1, description="What is asked: the page's title.")
    answer: Literal["variants", "alpha"] = Field(
        "variants",
        description="What the answer speaks of: each variant beside the run's own head, or the "
        "course over alpha.",
    )
    alphas: Annotated[tuple[Alpha, ...], AfterValidator(unique)] | None = Field(
        None, description="CVaR levels, beside the headline's and 1."
    )
    seeds: Annotated[tuple[Seed, ...], AfterValidator(unique)] | None = Field(
        None, description="By default the run's."
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Further heads by name, each with the recipe keys that differ from the run's.",
    )

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.answer == "variants" and not self.variants:
            raise ValueError("a study without 'variants' needs answer: alpha")
        return self


def usable_studies(
    config: Config, folder: Path = FOLDER
) -> tuple[dict[str, Study], dict[str, Config], dict[str, str]]:
    """The studies of a folder by the name of their file, and their configurations.

    And by name, what is wrong with those that cannot be run beside this configuration: nobody else
    is stopped by them.
    """
    studies, configs, wrong = {}, {}, {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            study = read_study(path)
            configs[path.stem] = study_config(config, path.stem, study)
            studies[path.stem] = study
        except UserError as error:
            wrong[path.stem] = str(error)
    return studies, configs, wrong


def read_study(path: Path) -> Study:
    """Read one study.

    Raises:
        UserError: it is not YAML, a key or a value is wrong, or its name is not a plain one.
    """
    mend = "docs/studies.md lists the keys"
    if not FOLDER_NAME.fullmatch(path.stem) or path.stem in CARDS:
        raise UserError(
            "the file's name is not a plain one, or taken", where=path, mend="rename it"
        )
    try:
        return Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise UserError(f"the file is not YAML: {error}", where=path, mend=mend) from None
    except ValidationError as error:
        said = "; ".join(
            f"'{'.'.join(map(str, detail['loc']))}': {detail['msg']}" for detail in error.errors()
        )
        raise UserError(said, where=path, mend=mend) from None


def study_config(config: Config, name: str, study: Study) -> Config:
    """The run's configuration with the study's heads in place of its grid.

    Raises:
        UserError: a variant has a key or value that no recipe has.
    """
    own = config.training
    values = own.model_dump() | {
        # The headline's and ERM's stand beside whatever a study asks.
        "alphas": tuple(sorted({*(study.alphas or ()), own.headline_alpha, 1.0})),
        "seeds": study.seeds or own.seeds,
        "variants": study.variants,
        "parts": 1,
    }
    try:
        training = Training.model_validate(values)
    except ValidationError as error:
        said = "; ".join(detail["msg"] for detail in error.errors())
        raise UserError(
            said, where=FOLDER / f"{name}.yaml", mend="docs/training.md has the recipe's keys"
        ) from None
    return config.model_copy(update={"training": training, "postprocess": Postprocess(steps=())})
