"""Settings of one entry under ``encoders``: the model, its weights, how it is run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clipaffect.config.section import Section

# Which model an asset holds the weights of.
WEIGHT_ASSETS = {
    "dinov2-s14": "clipaffect-dinov2-s14",
    "mobilenet-v2": "clipaffect-mobilenet-v2",
    "tiny-clip": "clipaffect-tiny",
}

EncoderKind = Literal["open_clip", "pixels"]  # each is a module in encoders/kinds
TWINS = ("gelu", "quickgelu")  # one is easily taken for the other


class Encoder(Section):
    """An image encoder: what it is, where its weights come from, how it is run."""

    kind: EncoderKind = Field(
        "open_clip", description="`pixels` is the floor: the crop itself, shrunk, grey."
    )
    model: str = Field("", description="open_clip model name, or one of the project's own.")
    tag: str | None = Field(None, description="open_clip pretrained tag, fetched from the hub.")
    file: str | None = Field(None, description="Local weights (safetensors, or a plain .pt state).")
    sha256: str | None = Field(
        None, description="Expected sha256 of `file`, or of the file that `tag` stands for."
    )
    asset: str | None = Field(None, description="Weights from the project's asset manifest.")
    random: int | None = Field(
        None, ge=0, lt=2**32, description="Random weights of this seed: a control."
    )
    activation: Literal["gelu", "quickgelu", "relu"] | None = Field(
        None,
        description="What the weights were trained with; OpenAI's CLIP used quickgelu. A model "
        "that runs another one is refused. `relu`: convolutional towers.",
    )
    swap_activation: bool = Field(
        False,
        description="Run gelu in place of quickgelu, or the reverse, on purpose: what it costs to "
        "overlook which of them the weights were trained with. For studies.",
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
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Threads that decode and preprocess crops ahead of the network. A GPU wants "
        "several; it changes no feature.",
    )
    crop: Literal["aligned", "cropped"] | None = Field(
        None, description="Of the faces that it sees, where it is not `faces.crop`."
    )
    licence: str = Field("", description="Of the weights, for the report; said by you.")
    side: int = Field(28, ge=4, le=256, description="Only `pixels`: side after shrinking.")

    @model_validator(mode="after")
    def _one_source(self) -> Encoder:
        sources = [k for k in ("tag", "file", "asset", "random") if getattr(self, k) is not None]
        if self.kind != "open_clip":
            if sources or self.model or self.swap_activation:
                raise ValueError(f"an encoder of kind '{self.kind}' has no model and no weights")
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
                "needs 'activation': gelu, quickgelu or relu, the one the weights were trained with"
            )
        if self.swap_activation and self.activation not in TWINS:
            raise ValueError(
                f"'swap_activation' exchanges {' and '.join(TWINS)}; these weights run "
                f"{self.activation}"
            )
        if self.file is not None and self.sha256 is None:
            raise ValueError("needs 'sha256' beside 'file': run sha256sum on it and copy it here")
        return self


def weights_folder(model: str, tag: str) -> str:
    """Where the weights that open_clip has a tag for lie below the folder of assets."""
    return f"weights/{model}--{tag}"
