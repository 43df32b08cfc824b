"""Settings of one entry under ``encoders``: the model, its weights and how it is run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clipaffect.config.section import Section

# The model whose weights each asset contains.
WEIGHT_ASSETS = {
    "dinov2-s14": "clipaffect-dinov2-s14",
    "mobilenet-v2": "clipaffect-mobilenet-v2",
    "tiny-clip": "clipaffect-tiny",
}

EncoderKind = Literal["open_clip", "pixels"]  # each is a module in encoders/kinds
TWINS = ("gelu", "quickgelu")  # easily mistaken for each other


class Encoder(Section):
    """An image encoder: the model, the source of its weights and how it is run."""

    kind: EncoderKind = Field(
        "open_clip", description="`pixels` is the lower baseline: the crop itself, shrunk, in grey."
    )
    model: str = Field("", description="open_clip model name, or one of the project's own.")
    tag: str | None = Field(None, description="open_clip pretrained tag, fetched from the hub.")
    file: str | None = Field(
        None, description="Local weights file (safetensors, or a plain .pt state dict)."
    )
    sha256: str | None = Field(
        None, description="Expected sha256 of `file`, or of the file that `tag` refers to."
    )
    asset: str | None = Field(None, description="Weights from the project's asset manifest.")
    random: int | None = Field(
        None, ge=0, lt=2**32, description="Use random weights with this seed, as a control."
    )
    activation: Literal["gelu", "quickgelu", "relu"] | None = Field(
        None,
        description="Activation that the weights were trained with (OpenAI's CLIP: quickgelu; "
        "convolutional towers: `relu`). A model that uses another activation is rejected.",
    )
    swap_activation: bool = Field(
        False,
        description="For studies: deliberately run gelu instead of quickgelu, or the reverse, to "
        "measure the cost of using the wrong activation for the weights.",
    )
    normalise: Literal["clip", "imagenet", "inception"] | None = Field(
        None, description="Input mean and standard deviation; by default those given by open_clip."
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        "bf16",
        description="Precision of weights and arithmetic. `fp16` is what the paper's code used on "
        "a GPU; on a CPU, weights are float16 and the arithmetic is float32.",
    )
    batch: int = Field(
        16,
        ge=1,
        le=4096,
        description="Batch size on a CPU: fixed, padded and recorded. A GPU takes what its memory "
        "allows.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Threads that decode crops ahead of the network; a GPU may need several "
        "(`clipaffect check` says how many). The features do not depend on this.",
    )
    crop: Literal["aligned", "cropped"] | None = Field(
        None, description="Kind of face crop for this encoder, if different from `faces.crop`."
    )
    licence: str = Field("", description="Licence of the weights, shown in the report as given.")
    side: int = Field(28, ge=4, le=256, description="For `pixels`: side length after shrinking.")

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
            raise ValueError(f"needs exactly one of tag, file, asset and random; given: {given}")
        if self.asset is not None and WEIGHT_ASSETS.get(self.asset) != self.model:
            known = ", ".join(f"asset {a} with model {m}" for a, m in WEIGHT_ASSETS.items())
            raise ValueError(
                f"'asset' {self.asset} has no weights of {self.model}; available: {known}"
            )
        if self.activation is None:
            raise ValueError(
                "needs 'activation', which the weights were trained with: gelu, quickgelu or relu"
            )
        if self.swap_activation and self.activation not in TWINS:
            raise ValueError(
                f"'swap_activation' exchanges {' and '.join(TWINS)}, but these weights use "
                f"{self.activation}"
            )
        if self.file is not None and self.sha256 is None:
            raise ValueError("'file' needs 'sha256': run sha256sum on the file and add it here")
        return self


def weights_folder(model: str, tag: str) -> str:
    """The folder of an open_clip tag's weights, relative to the folder of assets."""
    return f"weights/{model}--{tag}"
