"""The configuration as a tree of models: all keys with their defaults, meanings and bounds."""

from __future__ import annotations

from math import isnan
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from clipaffect.config.data import Data
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.features import Features
from clipaffect.config.prediction import Prediction
from clipaffect.config.section import Section, folder_name, unique
from clipaffect.config.training import Alpha, Training
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


SubmissionSteps = Literal["head", "postprocessed"]


class SubmissionEntry(Section):
    """Another file for a challenge, from other heads of the grid."""

    variant: str = Field("", description="A name of `training.variants`; by default the grid's.")
    alpha: Alpha | None = Field(
        None, description="One of its alphas; by default `training.headline_alpha`."
    )
    steps: SubmissionSteps | None = Field(
        None,
        description="As `submission.steps`, which is also the default for the grid's heads at the "
        "headline alpha. Post-processing is chosen for these heads only; others need `head`.",
    )


class Submission(Section):
    """The predictions for the frames that `data.test` lists."""

    steps: SubmissionSteps | None = Field(
        None,
        description="`head`: the mean of the heads' probabilities over the seeds. "
        "`postprocessed`: after the steps that were chosen on training people. By default "
        "`postprocessed` if `postprocess.steps` lists any.",
    )
    entries: dict[Annotated[str, AfterValidator(folder_name)], SubmissionEntry] = Field(
        default_factory=dict,
        description="More entries by name, besides the main one, which is that of the headline. "
        "Each gets its own folder. ABAW allows five entries.",
    )


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
    final_heads: Literal["scored", "everybody"] | None = Field(
        None,
        description="The heads that are exported and that predict the test frames. `scored`: those "
        "at the headline alpha that the report scores. `everybody`: the same heads trained once "
        "more, on all people, training and validation; they are not scored themselves. By default "
        "`everybody` under k-fold evaluation, else `scored`.",
    )
    probe: Probe = Field(default_factory=Probe, description="The linear probe.")
    zero_shot: ZeroShot = Field(default_factory=ZeroShot, description="Zero-shot CLIP by prompts.")
    submission: Submission = Field(
        default_factory=Submission, description="Predictions for a challenge."
    )
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
    def _entries_possible(self) -> Config:
        if self.submission.steps == "postprocessed":
            self._check_postprocessed("submission.steps")
        for name, entry in self.submission.entries.items():
            where = f"submission.entries.{name}"
            if entry.variant and entry.variant not in self.training.variants:
                raise ValueError(
                    f"'{where}.variant' names the unknown variant '{entry.variant}'; available: "
                    f"{', '.join(self.training.variants) or 'none'}"
                )
            own = {alpha for name, alpha, _ in self.training.heads() if name == entry.variant}
            trained = sorted(alpha for alpha in own if not isnan(alpha))
            wanted = self.training.headline_alpha if entry.alpha is None else entry.alpha
            if wanted not in trained and (trained or entry.alpha is not None):
                listed = ", ".join(f"{alpha:g}" for alpha in trained)
                raise ValueError(
                    f"'{where}.alpha': no head is trained at alpha {wanted:g}; available: "
                    f"{listed or 'none, because its loss has no alpha'}"
                )
            if entry.steps == "postprocessed":
                if not self._is_headline(entry):
                    raise ValueError(
                        f"'{where}.steps': the post-processing was chosen for the headline heads "
                        "only; set steps: head"
                    )
                self._check_postprocessed(f"{where}.steps")
        return self

    def _check_postprocessed(self, where: str) -> None:
        if not self.postprocess.steps:
            raise ValueError(f"'{where}' is postprocessed, but 'postprocess.steps' is empty")
        if self.data.split.by == "folds" and not self.trains_final_heads:
            raise ValueError(
                f"'{where}' is postprocessed: under k-fold evaluation each fold has other steps; "
                "set final_heads: everybody, or steps: head"
            )

    def _is_headline(self, entry: SubmissionEntry) -> bool:
        return not entry.variant and entry.alpha in (None, self.training.headline_alpha)

    def submission_entry(self, name: str) -> tuple[SubmissionEntry, bool, bool]:
        """An entry of the submission ('': the main one) and what predicts its frames.

        Returns:
            The entry, whether the final heads predict it, and whether steps follow.
        """
        entry = self.submission.entries.get(name, SubmissionEntry())
        headline = self._is_headline(entry)
        final = headline and self.trains_final_heads
        possible = bool(self.postprocess.steps) and (final or self.data.split.by != "folds")
        steps = entry.steps or (self.submission.steps if headline else "head")
        return entry, final, possible and headline and steps != "head"

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

    @property
    def is_exportable(self) -> bool:
        """Whether others can predict with the heads: they need no imported features and no code."""
        parts = self.features.join.get(self.encoder, (self.encoder,))
        return set(parts) <= set(self.encoders) and self.training.head == "mlp"

    @property
    def trains_final_heads(self) -> bool:
        """Whether heads are trained on everybody, after scoring, to be handed on."""
        if self.final_heads is None:
            return self.data.split.by == "folds" and (self.is_exportable or bool(self.data.test))
        return self.final_heads == "everybody"

    def settings(self) -> dict[str, Any]:
        """The settings that the run's results depend on, as JSON values: all but ``prediction``.

        The tasks are named, also where the file leaves them out.
        """
        values = self.model_dump(mode="json", exclude={"prediction"})
        values["training"]["tasks"] = list(self.tasks())
        return values

    def feature_names(self) -> list[str]:
        """Encoders, imported and joined features, by name."""
        return [*self.encoders, *self.features.imported, *self.features.join]

    def tasks(self) -> dict[str, Task]:
        """The tasks to train, by name."""
        known = self.data.known_tasks()
        return {name: known[name] for name in self.training.tasks or known}
