"""The configuration as a tree of models: every key, its default, its meaning and its bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from clipaffect.config.data import Data
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.features import Features
from clipaffect.config.prediction import Prediction
from clipaffect.config.section import Section, folder_name, unique
from clipaffect.config.training import Training
from clipaffect.core.tasks import Task

Missing = Literal["leave_out", "nearest", "interpolate"]
PostprocessStep = Literal["average_encoders", "average_seeds", "smooth", "temperature", "adjust"]


class Probe(Section):
    """The reference classifiers: logistic regression on the same features."""

    strength: float = Field(
        0.1, gt=0, description="Inverse regularisation C, on standardised features; fixed."
    )
    iterations: int = Field(200, ge=1, description="At most so many steps of L-BFGS.")


class ZeroShot(Section):
    """The reference that is not trained: CLIP by prompts, where the encoder has a text tower."""

    prompts: dict[str, dict[str, tuple[str, ...]]] = Field(
        default_factory=dict,
        description="By task and class or label, sentences that say it is shown; by default 'a "
        "face showing anger' and two more, or the action unit's FACS name.",
    )
    absent: tuple[str, ...] = Field(
        ("a face showing neutral",),
        min_length=1,
        description="Labels: sentences that say that none is shown.",
    )


class Evaluation(Section):
    """How heads are scored."""

    missing: Missing = Field(
        "leave_out",
        description="Annotated frames without a crop: `leave_out` of the score, `nearest` takes "
        "the score of the nearest frame of that person with a crop, `interpolate` the one between "
        "its two neighbours. Training uses frames with a crop alone.",
    )
    resamples: int = Field(
        10_000,
        ge=1000,
        le=1_000_000,
        description="Of the people, for intervals and tests.",
    )


class Postprocess(Section):
    """What is done with the scores of the headline's heads, each step chosen on training people.

    For that the training people are dealt to `folds` parts; heads trained without a part score it.
    """

    steps: Annotated[tuple[PostprocessStep, ...], AfterValidator(unique)] = Field(
        ("average_seeds", "smooth", "temperature", "adjust"),
        description="In this order, whichever are named: `average_encoders` (first) takes the "
        "mean with heads on other encoders, whichever of `encoders` help; `average_seeds` takes "
        "the mean of the seeds' probabilities; `smooth` a mean or Gaussian over neighbouring "
        "frames, its width chosen; `temperature` scales the logits to the least log loss; `adjust` "
        "shifts classes by their prior (logit adjustment), or gives every label a threshold of its "
        "own. An empty list switches it off.",
    )
    folds: int = Field(3, ge=2, le=20, description="Parts of the training people.")
    encoders: Annotated[tuple[str, ...], Field(max_length=4), AfterValidator(unique)] = Field(
        (), description="For `average_encoders`: other encoders of the run, at most 4."
    )

    @model_validator(mode="after")
    def _encoders_averaged(self) -> Postprocess:
        if bool(self.encoders) != ("average_encoders" in self.steps):
            raise ValueError(
                "'postprocess.encoders' and the step 'average_encoders' want each other: name the "
                "encoders and the step, or neither"
            )
        if "average_encoders" in self.steps[1:]:
            raise ValueError(
                "'postprocess.steps': 'average_encoders' averages heads seed by seed, so it comes "
                "first"
            )
        return self


class Paths(Section):
    """Folders that runs share."""

    store: str = Field("store", description="The work store: finished pieces of every run.")
    assets: str = Field("assets", description="Downloaded weights.")
    scratch: str | None = Field(
        None,
        description="Folder on a compute node's own disk, such as `$SLURM_TMPDIR` (expanded on the "
        "node): training jobs copy their table there. Where the variable is not set they read the "
        "table in place.",
    )


class Config(Section):
    """The whole configuration of a run."""

    preset: Literal["paper", "published_code", "recommended"] | None = Field(
        None,
        description="Values to start from, in src/clipaffect/config/presets/; your own keys win, "
        "and the report lists them.",
    )
    run: Annotated[str, AfterValidator(folder_name)] = Field(
        "demo", min_length=1, max_length=100, description="Results go to results/<run>/."
    )
    environment: Literal["cpu", "cuda"] = Field(
        "cpu", description="The conda environment of jobs under --use-conda."
    )
    paths: Paths = Field(default_factory=Paths, description="Folders that runs share.")
    data: Data = Field(default_factory=Data, description="Where the data is.")
    faces: Faces = Field(default_factory=Faces, description="Detection and cropping.")
    encoders: dict[Annotated[str, AfterValidator(folder_name)], Encoder] = Field(
        default_factory=lambda: {
            "tiny-clip": Encoder(
                model="clipaffect-tiny", asset="tiny-clip", activation="relu", batch=32
            ),
            "pixels": Encoder(kind="pixels"),
        },
        description="Encoders by name. Heads are trained on `encoder`; all others are references. "
        "With `features.import` there need be none.",
    )
    features: Features = Field(default_factory=Features, description="Features from elsewhere.")
    encoder: str = Field(
        "tiny-clip",
        description="The encoder (or the imported or joined features) that heads are trained on.",
    )
    training: Training = Field(default_factory=Training, description="The heads.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="How heads are scored.")
    postprocess: Postprocess = Field(
        default_factory=Postprocess, description="Scores after the head."
    )
    probe: Probe = Field(default_factory=Probe, description="The linear probe.")
    zero_shot: ZeroShot = Field(default_factory=ZeroShot, description="CLIP by prompts alone.")
    prediction: Prediction = Field(
        default_factory=Prediction, description="Other videos, answered by the trained heads."
    )

    @model_validator(mode="before")
    @classmethod
    def _imported_alone(cls, values: Any) -> Any:
        """With features of one's own, the demo's encoders are not meant."""
        features = values.get("features") if isinstance(values, dict) else None
        imported = features.get("import") if isinstance(features, dict) else None
        if not isinstance(imported, dict) or not imported:
            return values
        return {"encoders": {}, "encoder": next(iter(imported))} | values

    @model_validator(mode="after")
    def _encoder_known(self) -> Config:
        known = self.feature_names()
        if twice := {name for name in known if known.count(name) > 1}:
            raise ValueError(f"'{min(twice)}' names two of encoders, features.import and .join")
        for name, parts in self.features.join.items():
            for part in parts:
                if part not in self.encoders:
                    raise ValueError(
                        f"'features.join.{name}' names '{part}'; of encoders there is "
                        f"{', '.join(self.encoders) or 'none'}"
                    )
            if len(set(parts)) < len(parts):
                raise ValueError(f"'features.join.{name}' names an encoder twice")
        if self.encoder not in known:
            raise ValueError(f"'encoder' names '{self.encoder}'; there is {', '.join(known)}")
        for name in self.postprocess.encoders:
            if name not in known or name == self.encoder:
                others = [own for own in known if own != self.encoder]
                raise ValueError(
                    f"'postprocess.encoders' names '{name}'; beside '{self.encoder}' there is "
                    f"{', '.join(others) or 'none'}"
                )
        for name, encoder in self.encoders.items():
            if encoder.crop not in (None, self.faces.crop) and not self.data.searches_faces:
                raise ValueError(
                    f"'encoders.{name}.crop' is {encoder.crop}, but the images are cut already"
                )
        if self.encoders and not self.data.has_images():
            raise ValueError("'data' needs 'videos' or 'images' beside the annotations")
        return self

    @model_validator(mode="after")
    def _prompts_known(self) -> Config:
        known = self.data.known_tasks()
        for name, prompts in self.zero_shot.prompts.items():
            if name not in known:
                raise ValueError(
                    f"'zero_shot.prompts' names '{name}'; the data has {', '.join(known)}"
                )
            for target in prompts:
                if target not in known[name].targets:
                    raise ValueError(
                        f"'zero_shot.prompts.{name}' names '{target}'; there is "
                        f"{', '.join(known[name].targets)}"
                    )
        return self

    @model_validator(mode="after")
    def _erm_trained(self) -> Config:
        if 1.0 not in self.training.alphas:
            raise ValueError(
                "'training.alphas' must contain 1.0: plain ERM stands beside every result"
            )
        return self

    @model_validator(mode="after")
    def _tasks_known(self) -> Config:
        known = self.data.known_tasks()
        for name in self.training.tasks or ():
            if name not in known:
                raise ValueError(
                    f"'training.tasks' names '{name}'; the data has {', '.join(known)}"
                )
        return self

    def settings(self) -> dict[str, Any]:
        """What the run's results depend on, as JSON values: all but ``prediction``."""
        return self.model_dump(mode="json", exclude={"prediction"})

    def feature_names(self) -> list[str]:
        """Encoders, imported and joined features, by name."""
        return [*self.encoders, *self.features.imported, *self.features.join]

    def tasks(self) -> dict[str, Task]:
        """The tasks that are trained, by name."""
        known = self.data.known_tasks()
        return {name: known[name] for name in self.training.tasks or known}
