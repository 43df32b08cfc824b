"""Build an encoder from its configuration: model, weights, activation, preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clipaffect.assets import asset_file, known_assets
from clipaffect.config.models import Encoder
from clipaffect.digest import file_digest
from clipaffect.encoders import dinov2
from clipaffect.encoders.torchvision_ops import ensure_torchvision
from clipaffect.errors import UserError

ensure_torchvision()  # open_clip imports torchvision
import open_clip  # noqa: E402
from open_clip.transformer import QuickGELU  # noqa: E402

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "pillow")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
NORMALISATIONS = {
    "clip": (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True)
class LoadedEncoder:
    """A ready encoder.

    Attributes:
        prepare: one RGB crop (H, W, 3) uint8 to the network's input tensor.
        embed: a batch of prepared crops to features (n, dimension) float32.
        dimension: of a feature.
    """

    prepare: Callable[[np.ndarray], torch.Tensor]
    embed: Callable[[torch.Tensor], torch.Tensor]
    dimension: int


def encoder_record(settings: Encoder, device: str) -> dict[str, Any]:
    """What a feature depends on besides the crop: part of every work-store key.

    The device enters as its class (``cpu``, ``cuda``).
    """
    if settings.kind == "pixels":
        return {"pixels": settings.side, "opencv": cv2.__version__}
    # A file is known by its sha256, wherever it lies.
    values = settings.model_dump(mode="json", exclude={"kind", "side", "file", "activation"})
    record: dict[str, Any] = {"settings": values, "device": device}
    record["versions"] = {name: version(name) for name in PACKAGES}
    if arithmetic(settings, device) != DTYPES[settings.precision]:
        record["arithmetic"] = str(arithmetic(settings, device))
    if settings.asset is not None:
        members = known_assets()[settings.asset].members
        record["asset"] = {name: member.sha256 for name, member in members.items()}
    return record


def arithmetic(settings: Encoder, device: str) -> torch.dtype:
    """What an encoder computes in on a device.

    A CPU multiplies float16 at 3 GFLOP/s, float32 at 100 (measured): there fp16 means weights and
    features of float16, and float32 between them, which is nearer to the exact result.
    """
    if settings.precision == "fp16" and device == "cpu":
        return torch.float32
    return DTYPES[settings.precision]


def load_encoder(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
    """Load an encoder for inference.

    Args:
        settings: its configuration.
        assets: folder of fetched assets.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: unknown model or tag, a wrong file, or an activation that is not the stated one.
    """
    if settings.kind == "pixels":
        return _pixels(settings)
    visual = build_model(settings, assets).visual
    dtype = arithmetic(settings, device)
    # By way of the stated precision: its rounding of the weights holds whatever computes on them.
    visual = visual.to(dtype=DTYPES[settings.precision]).to(device=device, dtype=dtype)
    visual = visual.eval().requires_grad_(False)
    preprocessing = open_clip.get_model_preprocess_cfg(visual)
    size = preprocessing["size"]
    transform = open_clip.image_transform(
        size, is_train=False, mean=preprocessing["mean"], std=preprocessing["std"]
    )

    def prepare(crop: np.ndarray) -> torch.Tensor:
        tensor: torch.Tensor = transform(Image.fromarray(crop))
        return tensor

    @torch.inference_mode()
    def embed(batch: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = visual(batch.to(device=device, dtype=dtype))
        return features.float().cpu()

    height, width = (size, size) if isinstance(size, int) else size
    return LoadedEncoder(prepare, embed, int(embed(torch.zeros(1, 3, height, width)).shape[1]))


def check_encoder(settings: Encoder, name: str) -> None:
    """Check what can be checked without loading weights, before any work is done for them.

    Raises:
        UserError: unknown model or tag, an activation that is not the one the model runs or the
            tag was trained with, or a file that is missing or another one.
    """
    if settings.kind == "pixels":
        return
    where = f"encoders.{name}"
    with resources.as_file(resources.files(__package__) / "models") as folder:
        open_clip.add_model_config(folder)
    config = open_clip.get_model_config(settings.model)
    if config is None:
        raise UserError(
            f"open_clip {version('open_clip_torch')} has no model '{settings.model}'",
            where=f"{where}.model",
            mend="python -c 'import open_clip; print(open_clip.list_models())' lists them",
        )
    is_resnet = isinstance(config["vision_cfg"].get("layers"), list)  # its image tower runs ReLU
    runs = "quickgelu" if config.get("quick_gelu", False) else "gelu"
    if settings.tag is not None:
        _check_tag(settings, where)
    if not is_resnet and runs != settings.activation:
        raise _wrong_activation(settings, {runs}, where)
    if settings.file is not None:
        _check_file(Path(settings.file), settings, where)


def encoder_cost(settings: Encoder) -> tuple[float, int]:
    """Floating-point operations of one image (0 for pixels), and the feature's dimension.

    Counted by torch on a model without memory: no weights are needed.
    """
    if settings.kind == "pixels":
        return 0.0, settings.side**2
    check_encoder(settings, "<name>")
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # open_clip warns that no weights are loaded
    try:
        model = open_clip.create_model(settings.model, load_weights=False, device="meta")
    finally:
        logger.setLevel(level)
    if settings.asset == "dinov2-s14":
        model.visual.set_input_size(224)
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = model.visual.eval()(torch.zeros(1, 3, height, width, device="meta"))
    return float(counter.get_total_flops()), int(features.shape[1])


def build_model(settings: Encoder, assets: Path) -> Any:
    """The open_clip model with its weights, float32 on the CPU, activation checked."""
    check_encoder(settings, "<name>")
    normalise = None
    if settings.normalise is not None:
        mean, std = NORMALISATIONS[settings.normalise]
        normalise = {"mean": mean, "std": std}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.random or 0)
        try:
            model = open_clip.create_model(
                settings.model, pretrained=settings.tag, force_preprocess_cfg=normalise
            )
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"open_clip could not load '{settings.model}': {str(error).splitlines()[0]}",
                where="encoders.<name>.tag",
                mend="fetch the weights on a machine with internet and name them with 'file' and "
                "'sha256'",
            ) from None
    if settings.file is not None:
        _load_file(model, Path(settings.file), settings)
    elif settings.asset == "dinov2-s14":
        # Before the weights: the tower's own position embedding is for 518 px.
        model.visual.set_input_size(224)
        state = dinov2.load_state(asset_file(assets, settings.asset, "encoder.onnx"))
        model.visual.trunk.load_state_dict(state, strict=True)
    _check_activation(model.visual, settings)
    return model


def _check_tag(settings: Encoder, where: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(settings.model)
    if settings.tag not in tags:
        raise UserError(
            f"open_clip has no weights '{settings.tag}' for '{settings.model}'",
            where=f"{where}.tag",
            mend=f"one of: {', '.join(tags) or 'none; give a file'}",
        )
    trained = open_clip.get_pretrained_cfg(settings.model, settings.tag).get("quick_gelu", False)
    if trained != (settings.activation == "quickgelu"):
        right = "quickgelu" if trained else "gelu"
        raise UserError(
            f"the weights '{settings.tag}' were trained with {right}, not {settings.activation}",
            where=f"{where}.activation",
            mend=f"set activation: {right}"
            + (" and a model name that ends in -quickgelu" if trained else ""),
        )


def _check_file(path: Path, settings: Encoder, where: str) -> None:
    if not path.is_file():
        raise UserError(
            "no such weights file", where=path, mend=f"fetch it, or correct {where}.file"
        )
    found = file_digest(path)
    if found != settings.sha256:
        raise UserError(
            f"the weights have sha256 {found}, not {settings.sha256}",
            where=path,
            mend=f"fetch the right file, or correct {where}.sha256 if this one is meant",
        )


def _load_file(model: Any, path: Path, settings: Encoder) -> None:
    try:
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except Exception as error:
        # open_clip and torch raise a dozen kinds here: pickled code, other shapes, not a file.
        raise UserError(
            f"not the weights of a {settings.model}: {str(error).splitlines()[0][:200]}",
            where=path,
            mend="give open_clip's format as safetensors or a plain state dict (code in a pickle "
            "is never run), of the same model",
        ) from None


def visual_activations(visual: nn.Module) -> set[str]:
    """Which of gelu and quickgelu the image tower really runs."""
    kinds = {QuickGELU: "quickgelu", nn.GELU: "gelu"}
    return {name for module in visual.modules() for kind, name in kinds.items()
            if isinstance(module, kind)}  # fmt: skip


def _check_activation(visual: nn.Module, settings: Encoder) -> None:
    runs = visual_activations(visual)
    if runs and runs != {settings.activation}:
        raise _wrong_activation(settings, runs, "encoders.<name>")


def _wrong_activation(settings: Encoder, runs: set[str], where: str) -> UserError:
    return UserError(
        f"'{settings.model}' runs {' and '.join(sorted(runs))}, the weights are said to be "
        f"trained with {settings.activation}: every embedding would be off",
        where=f"{where}.model and .activation",
        mend="use the model name with -quickgelu for quickgelu weights, without it for gelu",
    )


def _pixels(settings: Encoder) -> LoadedEncoder:
    side = settings.side

    def prepare(crop: np.ndarray) -> torch.Tensor:
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(small.reshape(-1).astype(np.float32) / 255)

    return LoadedEncoder(prepare, lambda batch: batch.float(), side * side)
