"""The configuration as a tree of models: every key, its default, its meaning and its bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from clipaffect.config.data import Data
from clipaffect.config.features import Features
from clipaffect.config.section import Section, folder_name
from clipaffect.config.training import Training
from clipaffect.tasks import Task

Missing = Literal["leave_out", "nearest", "interpolate"]
# Which model an asset holds the weights of.
WEIGHT_ASSETS = {"dinov2-s14": "clipaffect-dinov2-s14"}


class Faces(Section):
    """Detection, alignment and cropping."""

    min_score: float = Field(0.5, gt=0, lt=1, description="Detector score a face must reach.")
    min_presence: float = Field(
        0.5, gt=0, lt=1, description="Landmark network's face score a face must reach."
    )
    crop: Literal["aligned", "cropped"] = Field(
        "aligned",
        description="`aligned`: five points on a template; `cropped`: the box with a margin.",
    )
    size: int = Field(224, ge=32, le=1024, multiple_of=8, description="Crop side in pixels.")
    margin: float = Field(
        0.25, ge=0, le=2, description="Margin around the box of a `cropped` crop, in box sides."
    )


class Encoder(Section):
    """An image encoder: what it is, where its weights come from, how it is run."""

    kind: Literal["open_clip", "pixels"] = Field(
        "open_clip", description="`pixels` is the floor: the crop itself, shrunk, grey."
    )
    model: str = Field("", description="open_clip model name, or one of the project's own.")
    tag: str | None = Field(None, description="open_clip pretrained tag, fetched from the hub.")
    file: str | None = Field(None, description="Local weights (safetensors, or a plain .pt state).")
    sha256: str | None = Field(None, description="Expected sha256 of `file`.")
    asset: str | None = Field(None, description="Weights from the project's asset manifest.")
    random: int | None = Field(
        None, ge=0, lt=2**32, description="Random weights of this seed: a control."
    )
    activation: Literal["gelu", "quickgelu"] | None = Field(
        None,
        description="What the weights were trained with; OpenAI's CLIP used quickgelu. A model "
        "that runs another one is refused.",
    )
    normalise: Literal["clip", "imagenet", "inception"] | None = Field(
        None, description="Mean and deviation of the input; by default what open_clip states."
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        "bf16",
        description="Of weights and arithmetic. `fp16` is what the paper's code used on a GPU; on "
        "a CPU its arithmetic is float32, on weights of float16.",
    )
    batch: int = Field(16, ge=1, le=4096, description="Fixed, padded batch; recorded.")
    side: int = Field(28, ge=4, le=256, description="Only `pixels`: side after shrinking.")

    @model_validator(mode="after")
    def _one_source(self) -> Encoder:
        sources = [k for k in ("tag", "file", "asset", "random") if getattr(self, k) is not None]
        if self.kind == "pixels":
            if sources or self.model:
                raise ValueError("an encoder of kind 'pixels' has no model and no weights")
            return self
        if not self.model:
            raise ValueError("needs 'model', an open_clip model name such as ViT-L-14-quickgelu")
        if len(sources) != 1:
            given = " and ".join(sources) or "none"
            raise ValueError(f"needs exactly one of tag, file, asset, random; given: {given}")
        if self.asset is not None and WEIGHT_ASSETS.get(self.asset) != self.model:
            known = ", ".join(f"asset {a} with model {m}" for a, m in WEIGHT_ASSETS.items())
            raise ValueError(
                f"'asset' {self.asset} has no weights of {self.model}; there is {known}"
            )
        if self.activation is None:
            raise ValueError(
                "needs 'activation': gelu or quickgelu, the one the weights were trained with"
            )
        if self.file is not None and self.sha256 is None:
            raise ValueError("needs 'sha256' beside 'file': run sha256sum on it and copy it here")
        return self


class Probe(Section):
    """The reference classifiers: logistic regression on the same features."""

    strength: float = Field(
        0.1, gt=0, description="Inverse regularisation C, on standardised features; fixed."
    )
    iterations: int = Field(200, ge=1, description="At most so many steps of L-BFGS.")


class Evaluation(Section):
    """How heads are scored."""

    missing: Missing = Field(
        "leave_out",
        description="Annotated frames without a crop: `leave_out` of the score, `nearest` takes "
        "the score of the nearest frame of that person with a crop, `interpolate` the one between "
        "its two neighbours. Training uses frames with a crop alone.",
    )


class Paths(Section):
    """Folders that runs share."""

    store: str = Field("store", description="The work store: finished pieces of every run.")
    assets: str = Field("assets", description="Downloaded weights.")


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
            "dinov2-s14": Encoder(
                model="clipaffect-dinov2-s14",
                asset="dinov2-s14",
                activation="gelu",
                normalise="imagenet",
            ),
            "pixels": Encoder(kind="pixels"),
        },
        description="Encoders by name. Heads are trained on `encoder`; all others are references. "
        "With `features.import` there need be none.",
    )
    features: Features = Field(default_factory=Features, description="Features from elsewhere.")
    encoder: str = Field(
        "dinov2-s14",
        description="The encoder (or the imported features) that heads are trained on.",
    )
    training: Training = Field(default_factory=Training, description="The heads.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="How heads are scored.")
    probe: Probe = Field(default_factory=Probe, description="The linear probe.")

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
        if twice := self.encoders.keys() & self.features.imported.keys():
            raise ValueError(f"'{min(twice)}' is an encoder and a name under features.import")
        known = self.feature_names()
        if self.encoder not in known:
            raise ValueError(f"'encoder' names '{self.encoder}'; there is {', '.join(known)}")
        if self.encoders and not self.data.has_images():
            raise ValueError("'data' needs 'videos' or 'images' beside the annotations")
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

    def feature_names(self) -> list[str]:
        """Encoders and imported features, by name."""
        return [*self.encoders, *self.features.imported]

    def tasks(self) -> dict[str, Task]:
        """The tasks that are trained, by name."""
        known = self.data.known_tasks()
        return {name: known[name] for name in self.training.tasks or known}
