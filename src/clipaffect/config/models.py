"""The configuration as a tree of models: every key, its default, its meaning and its bounds."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from clipaffect.tasks import TaskName


class Section(BaseModel):
    """A part of the configuration; keys it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# Names become folders and words of commands.
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Which model an asset holds the weights of.
WEIGHT_ASSETS = {"dinov2-s14": "clipaffect-dinov2-s14"}


def _folder_name(value: str) -> str:
    if not FOLDER_NAME.fullmatch(value):
        raise ValueError(
            "must be a plain name: letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return value


def _each_once(values: tuple[float | str, ...]) -> tuple[float | str, ...]:
    names = [v if isinstance(v, str) else f"{v:g}" for v in values]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} twice; each value may stand once")
    return values


class Subset(Section):
    """A few videos of each split, for a quick look before the long run."""

    train: int = Field(ge=1, description="Videos of the training split, first by name.")
    validation: int = Field(ge=1, description="Videos of the validation split, first by name.")
    frames: int | None = Field(
        None, ge=1, description="Use only the first so many frames of each video."
    )


class Data(Section):
    """Where the videos and annotations are."""

    format: Literal["aff_wild2"] = Field(
        "aff_wild2", description="How the data lies on disk; see docs/data.md."
    )
    videos: str = Field(
        "resources/demo/videos", description="Folder with the videos, searched with its subfolders."
    )
    annotations: str = Field(
        "resources/demo/annotations", description="Folder that holds the challenge's folders."
    )
    shards: int = Field(
        4, ge=1, le=4096, description="Parts the videos are dealt to; each is one job per stage."
    )
    subset: Subset | None = Field(None, description="Use a few videos only.")
    licensed: bool = Field(
        False,
        description="Whether the data's licence forbids redistribution: then the report shows no "
        "pictures of people.",
    )


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
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Of weights and arithmetic.")
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


Alpha = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Training(Section):
    """The heads: one for every task, alpha and seed."""

    tasks: Annotated[tuple[TaskName, ...], AfterValidator(_each_once)] = Field(
        ("EXPR", "AU"), min_length=1, description="Tasks to train."
    )
    alphas: Annotated[tuple[Alpha, ...], AfterValidator(_each_once)] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        min_length=1,
        description="CVaR levels: the share of worst losses that is averaged; 1 is the plain mean "
        "(ERM).",
    )
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_each_once)] = Field(
        (0, 1, 2), min_length=1, description="Each seed sets initialisation, batches and dropout."
    )
    headline_alpha: Alpha = Field(
        0.5,
        description="The alpha whose result heads the report: fixed beforehand, never chosen by "
        "its score. One of `alphas`.",
    )
    parts: int = Field(2, ge=1, le=1024, description="Jobs that each task's heads are dealt to.")
    hidden_layers: int = Field(3, ge=0, le=16, description="Linear-BatchNorm-ReLU-Dropout blocks.")
    width: int = Field(256, ge=8, le=8192, description="Units of a hidden layer.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Share of hidden units dropped.")
    rho: float = Field(0.05, ge=0, le=10, description="SAM radius; 0 switches SAM off.")
    epochs: int = Field(16, ge=1, le=10000, description="Passes over the training frames.")
    batch: int = Field(64, ge=2, le=65536, description="Frames in a batch.")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="AdamW's rate at the start.")
    final_learning_rate: float = Field(1e-5, ge=0, le=1, description="Where the cosine ends.")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="AdamW's decoupled decay.")

    @model_validator(mode="after")
    def _erm_present(self) -> Training:
        if 1.0 not in self.alphas:
            raise ValueError("'alphas' must contain 1.0: plain ERM stands beside every result")
        if self.headline_alpha not in self.alphas:
            raise ValueError(f"'headline_alpha' {self.headline_alpha:g} is not one of 'alphas'")
        if self.parts > len(self.alphas) * len(self.seeds):
            raise ValueError(f"'parts' {self.parts} is more than there are heads of a task")
        return self


class Probe(Section):
    """The reference classifiers: logistic regression on the same features."""

    strength: float = Field(
        0.1, gt=0, description="Inverse regularisation C, on standardised features; fixed."
    )
    iterations: int = Field(200, ge=1, description="At most so many steps of L-BFGS.")


class Paths(Section):
    """Folders that runs share."""

    store: str = Field("store", description="The work store: finished pieces of every run.")
    assets: str = Field("assets", description="Downloaded weights.")


class Config(Section):
    """The whole configuration of a run."""

    run: Annotated[str, AfterValidator(_folder_name)] = Field(
        "demo", min_length=1, max_length=100, description="Results go to results/<run>/."
    )
    environment: Literal["cpu", "cuda"] = Field(
        "cpu", description="The conda environment of jobs under --use-conda."
    )
    paths: Paths = Field(default_factory=Paths, description="Folders that runs share.")
    data: Data = Field(default_factory=Data, description="Where the data is.")
    faces: Faces = Field(default_factory=Faces, description="Detection and cropping.")
    encoders: dict[Annotated[str, AfterValidator(_folder_name)], Encoder] = Field(
        default_factory=lambda: {
            "dinov2-s14": Encoder(
                model="clipaffect-dinov2-s14",
                asset="dinov2-s14",
                activation="gelu",
                normalise="imagenet",
            ),
            "pixels": Encoder(kind="pixels"),
        },
        min_length=1,
        description="Encoders by name. Heads are trained on `encoder`; all others are references.",
    )
    encoder: str = Field("dinov2-s14", description="The encoder that heads are trained on.")
    training: Training = Field(default_factory=Training, description="The heads.")
    probe: Probe = Field(default_factory=Probe, description="The linear probe.")

    @model_validator(mode="after")
    def _encoder_known(self) -> Config:
        if self.encoder not in self.encoders:
            known = ", ".join(self.encoders)
            raise ValueError(f"'encoder' names '{self.encoder}'; 'encoders' has {known}")
        return self
