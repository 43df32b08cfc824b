"""The configuration as a tree of models: all keys with their defaults, meanings and bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

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

    strengths: Annotated[tuple[PositiveFloat, ...], AfterValidator(unique)] = Field(
        (0.001, 0.01, 0.1),
        min_length=1,
        description="Inverse regularisation strengths C, on standardised features. The one with "
        "the best F1 on a quarter of the training people is used; a single value is not chosen.",
    )
    iterations: int = Field(
        2000,
        ge=1,
        description="Maximum number of L-BFGS iterations. The report names a probe that has not "
        "converged.",
    )


class ZeroShot(Section):
    """The untrained reference: zero-shot CLIP with prompts, if the encoder has a text tower."""

    prompts: dict[str, dict[str, tuple[str, ...]]] = Field(
        default_factory=dict,
        description="For each task and class or label, prompts for its presence; by default 'a "
        "face showing anger' and two more, or the FACS name of the action unit.",
    )
    absent: tuple[str, ...] = Field(
        ("a face showing neutral",),
        min_length=1,
        description="For labels: prompts for the absence of all of them.",
    )


class Evaluation(Section):
    """How heads are scored."""

    missing: Missing = Field(
        "leave_out",
        description="Annotated frames without a crop. `leave_out`: exclude them from the score. "
        "`nearest`: use the score of the same person's nearest frame with a crop. `interpolate`: "
        "interpolate between its two neighbours. Training uses only frames with a crop.",
    )
    resamples: int = Field(
        10_000,
        ge=1000,
        le=1_000_000,
        description="Number of random exchanges of people in a paired test.",
    )


class Postprocess(Section):
    """Post-processing of the scores of the headline heads; each step is chosen on training people.

    For this, the training people are divided into `folds` parts, and each part is scored by heads
    that were trained without it.
    """

    steps: Annotated[tuple[PostprocessStep, ...], AfterValidator(unique)] = Field(
        ("average_seeds", "smooth", "temperature", "adjust"),
        description="Steps to apply, in this order. `average_encoders` (must be first): average "
        "with heads on those of `encoders` that help. `average_seeds`: average the probabilities "
        "over seeds. `smooth`: apply a mean or Gaussian of a chosen width over neighbouring "
        "frames. `temperature`: scale the logits for the lowest log loss. `adjust`: shift classes "
        "by their prior (logit adjustment), or choose a threshold for each label. An empty list "
        "turns post-processing off.",
    )
    folds: int = Field(3, ge=2, le=20, description="Number of parts of the training people.")
    encoders: Annotated[tuple[str, ...], Field(max_length=4), AfterValidator(unique)] = Field(
        (), description="For `average_encoders`: up to 4 other encoders of the run."
    )

    @model_validator(mode="after")
    def _encoders_averaged(self) -> Postprocess:
        if bool(self.encoders) != ("average_encoders" in self.steps):
            raise ValueError(
                "'postprocess.encoders' and the step 'average_encoders' need each other: set both "
                "or neither"
            )
        if "average_encoders" in self.steps[1:]:
            raise ValueError(
                "'postprocess.steps': 'average_encoders' must come first, because it averages "
                "heads seed by seed"
            )
        return self


class Paths(Section):
    """Folders shared by runs."""

    store: str = Field("store", description="The store: cached work of all runs.")
    assets: str = Field("assets", description="Downloaded weights.")
    scratch: str | None = Field(
        None,
        description="Folder on a compute node's local disk, such as `$SLURM_TMPDIR` (expanded on "
        "the node), to which training jobs copy their table. If the variable is not set, they read "
        "the table in place.",
    )


class Config(Section):
    """The whole configuration of a run."""

    preset: Literal["paper", "published_code", "recommended"] | None = Field(
        None,
        description="Values to start from, in src/clipaffect/config/presets/. Your own keys "
        "override them, and the report lists the differences.",
    )
    run: Annotated[str, AfterValidator(folder_name)] = Field(
        "demo", min_length=1, max_length=100, description="Results are written to results/<run>/."
    )
    environment: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="`cuda` asks for a GPU for every job that can use one; with --use-conda, also "
        "which environment jobs run in.",
    )
    paths: Paths = Field(default_factory=Paths, description="Folders shared by runs.")
    data: Data = Field(default_factory=Data, description="Where the data is.")
    faces: Faces = Field(default_factory=Faces, description="Face detection and cropping.")
    encoders: dict[Annotated[str, AfterValidator(folder_name)], Encoder] = Field(
        default_factory=lambda: {
            "tiny-clip": Encoder(
                model="clipaffect-tiny", asset="tiny-clip", activation="relu", batch=32
            ),
            "pixels": Encoder(kind="pixels"),
        },
        description="Encoders by name. Heads are trained on `encoder`; all others are references. "
        "With `features.import`, none is needed.",
    )
    features: Features = Field(default_factory=Features, description="Imported or joined features.")
    encoder: str = Field(
        "tiny-clip",
        description="The encoder (or imported or joined features) to train heads on.",
    )
    training: Training = Field(default_factory=Training, description="The heads.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="How heads are scored.")
    postprocess: Postprocess = Field(
        default_factory=Postprocess, description="Post-processing of the scores."
    )
    probe: Probe = Field(default_factory=Probe, description="The linear probe.")
    zero_shot: ZeroShot = Field(default_factory=ZeroShot, description="Zero-shot CLIP by prompts.")
    prediction: Prediction = Field(
        default_factory=Prediction, description="Other videos to predict with the trained heads."
    )

    @model_validator(mode="before")
    @classmethod
    def _imported_alone(cls, values: Any) -> Any:
        """With imported features, leave out the demo's encoders."""
        features = values.get("features") if isinstance(values, dict) else None
        imported = features.get("import") if isinstance(features, dict) else None
        if not isinstance(imported, dict) or not imported:
            return values
        return {"encoders": {}, "encoder": next(iter(imported))} | values

    @model_validator(mode="after")
    def _encoder_known(self) -> Config:
        known = self.feature_names()
        if twice := {name for name in known if known.count(name) > 1}:
            raise ValueError(f"'{min(twice)}' is used twice in encoders, features.import and .join")
        for name, parts in self.features.join.items():
            for part in parts:
                if part not in self.encoders:
                    raise ValueError(
                        f"'features.join.{name}' names the unknown encoder '{part}'; available: "
                        f"{', '.join(self.encoders) or 'none'}"
                    )
            if len(set(parts)) < len(parts):
                raise ValueError(f"'features.join.{name}' lists an encoder twice")
        if self.encoder not in known:
            raise ValueError(f"unknown 'encoder' '{self.encoder}'; available: {', '.join(known)}")
        for name in self.postprocess.encoders:
            if name not in known or name == self.encoder:
                others = [own for own in known if own != self.encoder]
                raise ValueError(
                    f"'postprocess.encoders' cannot use '{name}'; available, besides "
                    f"'{self.encoder}': {', '.join(others) or 'none'}"
                )
        for name, encoder in self.encoders.items():
            if encoder.crop not in (None, self.faces.crop) and not self.data.searches_faces:
                raise ValueError(
                    f"'encoders.{name}.crop' is {encoder.crop}, but the images are already cropped"
                )
        if self.encoders and not self.data.has_images():
            raise ValueError("'data' needs 'videos' or 'images' in addition to the annotations")
        return self

    @model_validator(mode="after")
    def _prompts_known(self) -> Config:
        known = self.data.known_tasks()
        for name, prompts in self.zero_shot.prompts.items():
            if name not in known:
                raise ValueError(
                    f"'zero_shot.prompts' names the unknown task '{name}'; "
                    f"available: {', '.join(known)}"
                )
            for target in prompts:
                if target not in known[name].targets:
                    raise ValueError(
                        f"'zero_shot.prompts.{name}' names the unknown class or label '{target}'; "
                        f"available: {', '.join(known[name].targets)}"
                    )
        return self

    @model_validator(mode="after")
    def _erm_trained(self) -> Config:
        if 1.0 not in self.training.alphas:
            raise ValueError(
                "'training.alphas' must contain 1.0: every result is compared with plain ERM"
            )
        return self

    @model_validator(mode="after")
    def _tasks_known(self) -> Config:
        known = self.data.known_tasks()
        for name in self.training.tasks or ():
            if name not in known:
                raise ValueError(
                    f"'training.tasks' names the unknown task '{name}'; "
                    f"available: {', '.join(known)}"
                )
        return self

    def settings(self) -> dict[str, Any]:
        """The settings that the run's results depend on, as JSON values: all but ``prediction``."""
        return self.model_dump(mode="json", exclude={"prediction"})

    def feature_names(self) -> list[str]:
        """Encoders, imported and joined features, by name."""
        return [*self.encoders, *self.features.imported, *self.features.join]

    def tasks(self) -> dict[str, Task]:
        """The tasks to train, by name."""
        known = self.data.known_tasks()
        return {name: known[name] for name in self.training.tasks or known}
