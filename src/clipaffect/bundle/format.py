"""The models of ``bundle.json``, against which every bundle is validated before use.

Compatibility: every later version of clipaffect reads a bundle of format version 1. A later format
gets a new number, and a reader refuses a number that it does not know. A frame gets the same scores
as long as the stage versions recorded in ``stages`` are the same. Where they differ, the reader
warns.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from clipaffect.config.data import Source
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.section import Section, explain, folder_name
from clipaffect.core.errors import UserError, first_line
from clipaffect.core.layout import Model
from clipaffect.core.tasks import Task

FORMAT, VERSION = "clipaffect-bundle", 4
# 2 adds what heads were trained on, the feature statistics and zero-shot heads; 3 final heads; 4
# the frame rate of the training videos.
READABLE = (1, 2, 3, 4)
AGAIN = "fetch the complete bundle again from its source"
NAME = Model(Path()).bundle.name
# Far beyond any trained model; a file that exceeds them is not read any further.
MOST_JSON = 4 << 20  # bytes
MOST_SIDE = 65_536
PLAIN_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}")
FolderName = Annotated[str, AfterValidator(folder_name), Field(max_length=100)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Smoothing(Section):
    """Choice of ``smooth``."""

    kind: Literal["none", "mean", "gaussian"]
    width: float = Field(ge=0, le=10_000)

    @model_validator(mode="after")
    def _is_a_window(self) -> Smoothing:
        if self.kind == "mean" and (self.width < 1 or self.width % 1):
            raise ValueError("the width of a mean must be a whole number of frames, at least one")
        if self.kind == "gaussian" and not self.width:
            raise ValueError("the width of a Gaussian must be above 0")
        return self


class Temperature(Section):
    """Choice of ``temperature``."""

    temperature: float = Field(gt=0, le=1e6)


class Thresholds(Section):
    """Choice of ``adjust`` for labels."""

    thresholds: tuple[Probability, ...]


class Adjustment(Section):
    """Choice of ``adjust`` for classes."""

    tau: float = Field(ge=0, le=100)
    prior: tuple[Annotated[float, Field(gt=0, le=1)], ...]


class Together(Section):
    """Choice of ``average_encoders``."""

    others: tuple[FolderName, ...] = Field(alias="with")


class Nothing(Section):
    """Choice of ``average_seeds``: always empty."""


class AverageEncoders(Section):
    """Averaged with heads on other encoders, seed by seed."""

    step: Literal["average_encoders"]
    choice: Together


class AverageSeeds(Section):
    """The mean of the seeds' probabilities."""

    step: Literal["average_seeds"]
    choice: Nothing


class Smooth(Section):
    """Smoothed over neighbouring frames."""

    step: Literal["smooth"]
    choice: Smoothing


class Scale(Section):
    """Logits divided by a temperature."""

    step: Literal["temperature"]
    choice: Temperature


class Adjust(Section):
    """Shifted decisions."""

    step: Literal["adjust"]
    choice: Thresholds | Adjustment


# A step after the head, and what was chosen for it on training people.
Step = Annotated[
    AverageEncoders | AverageSeeds | Smooth | Scale | Adjust, Field(discriminator="step")
]


class Heads(Section):
    """Heads of one task on one encoder's features, one for each seed.

    Attributes:
        features: a name of ``Bundle.features``.
        seeds: names of the heads in the file, ``<features>/seed=<seed>/``.
        inputs, hidden_layers, width: of the MLP.
        unit: whether features are L2-normalised before the head.
    """

    features: FolderName
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(min_length=1, max_length=1000)
    inputs: int = Field(ge=1, le=MOST_SIDE)
    hidden_layers: int = Field(ge=0, le=64)
    width: int = Field(ge=1, le=MOST_SIDE)
    unit: bool = False


class TrainedOn(Section):
    """What heads were trained on.

    Attributes:
        source: as ``data.source``; ``nothing`` for zero-shot models.
        people, videos, frames: counts; ``people`` is None if nobody recorded who is in the videos.
        frame_rate: frames per second of the videos; None for images, or if it is not known.
    """

    source: Source | Literal["nothing"]
    people: int | None = Field(ge=0)
    videos: int = Field(ge=0)
    frames: int = Field(ge=0)
    frame_rate: float | None = Field(None, gt=0)


class TaskModel(Section):
    """Everything that turns features into predictions for one task.

    Attributes:
        targets, multilabel: see ``tasks.Task``.
        file: the safetensors file of the heads.
        heads: the run's own first, then those of other encoders that are averaged with.
        alpha: CVaR level of the heads; None for a zero-shot model.
        steps: after the head, in order.
        macro_f1, low, high: of the heads on the run's validation people, and the 95 % interval;
            None where it has none.
        after_steps: macro F1 behind the last step, on the same people.
        protocol: how these were measured, in words.
        trained_on: None if not recorded.
        final_heads: whether the heads were trained on all people after scoring, so that the scores
            are those of other heads.
    """

    targets: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        min_length=2, max_length=1000
    )
    multilabel: bool
    file: str
    heads: tuple[Heads, ...] = Field(min_length=1, max_length=5)
    alpha: Annotated[float, Field(gt=0, le=1)] | None
    steps: tuple[Step, ...] = Field(max_length=5)
    macro_f1: float | None
    low: float | None
    high: float | None
    after_steps: float | None
    protocol: str = Field(max_length=5000)
    trained_on: TrainedOn | None = None
    final_heads: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> TaskModel:
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("a target is listed twice")
        for step in self.steps:
            values = getattr(step.choice, "thresholds", getattr(step.choice, "prior", None))
            if values is not None and len(values) != len(self.targets):
                raise ValueError(f"'{step.step}' has {len(values)} values, not one per target")
            if isinstance(step.choice, Thresholds) and not self.multilabel:
                raise ValueError("thresholds apply to labels, not to classes")
            if isinstance(step.choice, Adjustment) and self.multilabel:
                raise ValueError("a prior applies to classes, not to labels")
            if isinstance(step.choice, Together):
                names = {own.features for own in self.heads[1:]}
                if not set(step.choice.others) <= names:
                    raise ValueError("'average_encoders' names heads that do not exist")
        return self

    def task(self, name: str) -> Task:
        """The task that the heads predict."""
        return Task(name, self.targets, self.multilabel)


class File(Section):
    """A file of the bundle."""

    bytes: int = Field(ge=0, le=64 << 30)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def plain_path(value: str) -> str:
    """Check that a path stays inside the bundle; for pydantic's ``AfterValidator``."""
    if not PLAIN_PATH.fullmatch(value) or ".." in PurePosixPath(value).parts:
        raise ValueError(f"'{value[:100]}' is not a plain path inside the bundle")
    return value


class Bundle(Section):
    """``bundle.json``.

    Attributes:
        run: the run it was exported from.
        licensed: whether the data forbids handing on what is made of it.
        faces: which frames, how faces are found, aligned and cut.
        encoders: by name; ``file`` names a file of the bundle, or one to be given.
        features: by name, the encoders whose features are put side by side.
        tasks: by name.
        cautions: sentences that a user of the scores has to know.
        stages: versions of the stages that made the scores.
        packages: versions of the packages.
        config: sha256 of the run's configuration.
        made_from: sha256 of the run's record and final heads; '' if not recorded.
        files: every other file of the bundle, by path.
        statistics: file with the statistics of the training features, or None.
    """

    format: Literal["clipaffect-bundle"]
    version: Literal[1, 2, 3, 4]
    run: FolderName
    licensed: bool
    faces: Faces
    encoders: dict[FolderName, Encoder] = Field(min_length=1, max_length=20)
    features: dict[FolderName, tuple[FolderName, ...]] = Field(min_length=1, max_length=20)
    tasks: dict[FolderName, TaskModel] = Field(min_length=1, max_length=100)
    cautions: tuple[Annotated[str, Field(max_length=2000)], ...] = Field(max_length=100)
    stages: dict[str, int]
    packages: dict[str, str]
    config: str = Field(pattern="^[0-9a-f]{64}$")
    made_from: str = Field("", pattern="^([0-9a-f]{64})?$")
    files: dict[Annotated[str, AfterValidator(plain_path)], File] = Field(max_length=1000)
    feature_statistics: str | None = None

    @property
    def own_features(self) -> str:
        """The features that the run's own heads use; the first of every task's."""
        return next(iter(self.tasks.values())).heads[0].features

    @model_validator(mode="after")
    def _in_order(self) -> Bundle:
        for name, task in self.tasks.items():
            if any(list(own.seeds) != sorted(set(own.seeds)) for own in task.heads):
                raise ValueError(f"the seeds of 'tasks.{name}' must be sorted and distinct")
            if task.heads[0].features != next(iter(self.tasks.values())).heads[0].features:
                raise ValueError(f"'tasks.{name}' uses other features than the first task")
        return self

    @model_validator(mode="after")
    def _named(self) -> Bundle:
        for name, parts in self.features.items():
            if not parts or not set(parts) <= set(self.encoders):
                raise ValueError(f"'features.{name}' names an encoder that does not exist")
        if self.feature_statistics is not None and self.feature_statistics not in self.files:
            raise ValueError("'feature_statistics' names a file that is not listed under 'files'")
        for name, task in self.tasks.items():
            if task.file not in self.files:
                raise ValueError(f"'tasks.{name}.file' is not listed under 'files'")
            for own in task.heads:
                if own.features not in self.features:
                    raise ValueError(f"'tasks.{name}' has heads on features that do not exist")
        for name, encoder in self.encoders.items():
            if encoder.file in self.files and not str(encoder.file).endswith(".safetensors"):
                raise ValueError(f"'encoders.{name}.file' is not a safetensors file")
            # open_clip would read these names as places to fetch a model from.
            if ":" in encoder.model or "/" in encoder.model:
                raise ValueError(f"'encoders.{name}.model' is not a plain model name")
            if encoder.file is not None:
                plain_path(encoder.file)
        return self


def read_bundle(path: Path) -> Bundle:
    """Read ``bundle.json`` without opening the files that it lists.

    Raises:
        UserError: the file is missing, or this version of clipaffect cannot read it.
    """
    fix = "give a folder written by 'clipaffect export-model'"
    if not path.is_file():
        raise UserError(f"not a bundle: {NAME} is missing", where=path.parent, fix=fix)
    if path.stat().st_size > MOST_JSON:
        raise UserError("the file is too large for a bundle", where=path, fix=fix)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"invalid JSON: {first_line(error)}", where=path, fix=AGAIN) from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError("the file does not belong to a bundle", where=path, fix=fix)
    if values.get("version") not in READABLE:
        raise UserError(
            f"unsupported format version {values.get('version')!r}: this version of clipaffect "
            f"reads {' and '.join(map(str, READABLE))}",
            where=path,
            fix="install a newer version of clipaffect",
        )
    try:
        return Bundle.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, Bundle), where=path, fix=AGAIN) from None
