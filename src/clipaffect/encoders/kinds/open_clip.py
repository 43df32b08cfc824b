"""Kind ``open_clip``: a model of open_clip, or one that this project has registered with it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clipaffect.config.encoders import Encoder
from clipaffect.core.assets import asset_file
from clipaffect.core.errors import UserError, first_line
from clipaffect.encoders import dinov2, mobilenet
from clipaffect.encoders.device_inputs import DeviceInputs, Groups
from clipaffect.encoders.feature_record import DTYPES, arithmetic, record
from clipaffect.encoders.fetch_weights import checked_weights
from clipaffect.encoders.open_clip_checks import check, wrong_activation
from clipaffect.encoders.openai_files import difference, openai_state
from clipaffect.encoders.registry import EncoderCost, LoadedEncoder
from clipaffect.encoders.untrained import create_untrained, open_clip

logger = logging.getLogger(__name__)

IS_NETWORK = True
GPU_BATCHES = (256, 128, 64, 32)  # crops at once; larger ones are not faster
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
NORMALISATIONS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def load(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
    """The image tower of an open_clip model."""
    dtype = arithmetic(settings, device)
    if dtype != DTYPES[settings.precision]:
        name, instead = settings.precision, str(dtype).removeprefix("torch.")
        logger.warning(
            "%s has no fast %s: computed in %s, on weights of %s", device, name, instead, name
        )
    return _running(build_tower(settings, assets), settings, device)


def stand_in(settings: Encoder, device: str) -> LoadedEncoder:
    """A tower of the same shape, every weight 0.01."""
    # By way of ``meta``: neither the text tower nor float32 weights have memory, if not asked for.
    visual = bare_tower(settings).to(DTYPES[settings.precision]).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*visual.parameters(), *visual.buffers()):
            tensor.fill_(0.01 if tensor.is_floating_point() else 0)
    if settings.swap_activation:
        swap_activations(visual)
    return _running(visual, settings, device)


def bare_tower(settings: Encoder) -> Any:
    """An encoder's image tower without weights or memory (on torch's device ``meta``)."""
    check(settings, "<name>")
    model = create_untrained(settings.model, "meta", _preprocessing(settings))
    if settings.asset == "dinov2-s14":
        model.visual.set_input_size(224)
    return model.visual.eval().requires_grad_(False)


def _running(visual: Any, settings: Encoder, device: str) -> LoadedEncoder:
    """Set up an image tower on a device, in its precision."""
    dtype = arithmetic(settings, device)
    # By way of the stated precision: its rounding of the weights holds whatever computes on them.
    visual = visual.to(dtype=DTYPES[settings.precision]).to(device=device, dtype=dtype)
    visual = visual.eval().requires_grad_(False)
    # oneDNN's convolutions: 5.6 ms a crop of the tiny tower in bf16 become 2.1 ms, with the same
    # features to the bit; in fp32 7.7 become 4.6, and last bits change.
    layout = torch.channels_last if device == "cpu" else torch.contiguous_format
    visual = visual.to(memory_format=layout)
    if device != "cpu":
        return _on_gpu(visual, device, dtype)
    prepare = preparation(visual)

    def gather(crops: Sequence[np.ndarray], batch: int) -> torch.Tensor:
        inputs = torch.empty(batch, 3, *_size(visual), dtype=dtype)
        for place, crop in enumerate(crops):
            # Straight into its place: to stack and then to pad would each copy the batch.
            inputs[place] = prepare(crop)
        inputs[len(crops) :] = 0
        return inputs

    @torch.inference_mode()
    def embed(batch: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = visual(batch.to(memory_format=layout))
        return features.float()

    dimension = int(embed(torch.zeros(1, 3, *_size(visual), dtype=dtype)).shape[1])
    return LoadedEncoder(prepare, gather, embed, dimension, settings.batch)


def _on_gpu(visual: Any, device: str, dtype: torch.dtype) -> LoadedEncoder:
    """The host decodes; the GPU does everything else, in batches as large as its memory allows."""
    inputs = device_inputs(visual, device, dtype)

    @torch.inference_mode()
    def embed(groups: Groups) -> torch.Tensor:
        features: torch.Tensor = visual(inputs.on_device(groups))
        return features.float()

    # Half as large as the network's input, so that resizing takes its memory, too.
    blank = np.zeros((_size(visual)[0] // 2, _size(visual)[0] // 2, 3), np.uint8)
    batch, features = largest_batch(lambda count: embed(inputs.gather([blank] * count, count)))
    logger.info("batches of %d crops", batch)
    return LoadedEncoder(preparation(visual), inputs.gather, embed, features.shape[1], batch)


def device_inputs(visual: nn.Module, device: str, dtype: torch.dtype) -> DeviceInputs:
    """The same preprocessing as ``preparation``, most of it on the device and in batches."""
    library = open_clip().transform
    steps = _transform(visual).transforms
    first = next(k for k, step in enumerate(steps) if isinstance(step, library.ToTensor))
    stated = open_clip().get_model_preprocess_cfg(visual)
    return DeviceInputs(stated, library.Compose(steps[:first]), device, dtype)


def largest_batch(embed: Callable[[int], torch.Tensor]) -> tuple[int, torch.Tensor]:
    """The first of ``GPU_BATCHES`` that fits into the GPU's memory, and what ``embed`` returned.

    Raises:
        torch.cuda.OutOfMemoryError: not even the smallest fits.
    """
    for batch in GPU_BATCHES[:-1]:
        try:
            return batch, embed(batch)
        except torch.cuda.OutOfMemoryError:
            logger.warning("a batch of %d crops does not fit into the memory of the GPU", batch)
        torch.cuda.empty_cache()
    return GPU_BATCHES[-1], embed(GPU_BATCHES[-1])


def _size(visual: Any) -> tuple[int, int]:
    """Height and width of an image tower's input."""
    size = open_clip().get_model_preprocess_cfg(visual)["size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def _transform(visual: nn.Module) -> Any:
    """open_clip's own preprocessing for an image tower, step by step."""
    stated = open_clip().get_model_preprocess_cfg(visual)
    chosen = open_clip().transform.PreprocessCfg(**stated)
    return open_clip().transform.image_transform_v2(chosen, is_train=False)


def preparation(visual: nn.Module) -> Callable[[np.ndarray], torch.Tensor]:
    """open_clip's own preprocessing for an image tower; see ``LoadedEncoder.prepare``."""
    transform = _transform(visual)

    def prepare(crop: np.ndarray) -> torch.Tensor:
        tensor: torch.Tensor = transform(Image.fromarray(crop))
        return tensor

    return prepare


def cost(settings: Encoder) -> EncoderCost:
    """Counted by torch on a model without memory: no weights are needed."""
    visual = bare_tower(settings)
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = visual(torch.zeros(1, 3, height, width, device="meta"))
    parameters = sum(weight.numel() for weight in visual.parameters())
    return EncoderCost(float(counter.get_total_flops()), parameters, int(features.shape[1]))


def describe_input(settings: Encoder) -> dict[str, Any]:
    """From a crop to the network's input."""
    found = input_description(settings)
    height, width = found["size"]
    return {
        "input": f"(N, 3, {height}, {width}) float32, RGB",
        "size": [height, width],
        "interpolation": found["interpolation"],
        "mean": found["mean"],
        "std": found["std"],
        "steps": [
            f"resized to {height} x {width} by Pillow's {found['interpolation']} filter, unless "
            "the crop has that size (crops are square: open_clip's modes of resizing agree)",
            "divided by 255",
            "less the mean, over the deviation, each by channel",
        ],
        "arithmetic": settings.precision,
    }


def input_description(settings: Encoder) -> dict[str, Any]:
    """What open_clip does to an image before an encoder: size (2,), mean, std, interpolation."""
    model = create_untrained(settings.model, "meta", _preprocessing(settings))
    stated = dict(open_clip().get_model_preprocess_cfg(model.visual))
    size = stated["size"]
    stated["size"] = [size, size] if isinstance(size, int) else list(size)
    return stated | {"mean": list(stated["mean"]), "std": list(stated["std"])}


def build_tower(settings: Encoder, assets: Path) -> Any:
    """The image tower with its weights, float32 on the CPU, activation checked."""
    if settings.tag is None and settings.file is None:
        return build_model(settings, assets).visual
    # The text tower stays on ``meta``, and nothing is drawn that the file replaces: ViT-L/14 takes
    # 2.2 instead of 5.0 CPU-s. The file is checked against both towers.
    check(settings, "<name>")
    model = create_untrained(settings.model, "meta", _preprocessing(settings))
    if any(module._non_persistent_buffers_set for module in model.visual.modules()):
        return build_model(settings, assets).visual  # the file lacks something
    model.visual.to_empty(device="cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter", UserWarning)
        return _with_weights(model, settings, assets).visual


def build_model(settings: Encoder, assets: Path) -> Any:
    """The open_clip model with its weights, float32 on the CPU, activation checked."""
    check(settings, "<name>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.random or 0)
        model = create_untrained(settings.model, preprocessing=_preprocessing(settings))
    return _with_weights(model, settings, assets)


def _with_weights(model: Any, settings: Encoder, assets: Path) -> Any:
    if settings.tag is not None:
        _load_file(model, checked_weights(settings, assets), settings)
    elif settings.file is not None:
        _load_file(model, Path(settings.file), settings)
    elif settings.asset == "dinov2-s14":
        # Before the weights: the tower's own position embedding is for 518 px.
        model.visual.set_input_size(224)
        state = dinov2.load_state(asset_file(assets, settings.asset, "encoder.onnx"))
        model.visual.trunk.load_state_dict(state, strict=True)
    elif settings.asset == "mobilenet-v2":
        trunk = model.visual.trunk
        path = asset_file(assets, settings.asset, "encoder.pth")
        trunk.load_state_dict(mobilenet.load_state(path, list(trunk.state_dict())), strict=True)
    elif settings.asset is not None:
        _load_file(model, asset_file(assets, settings.asset, "encoder.safetensors"), settings)
    _check_activation(model.visual, settings)
    if settings.swap_activation:
        swap_activations(model.visual)
    return model


def _preprocessing(settings: Encoder) -> dict[str, Any]:
    """open_clip's preprocessing for these weights, where it differs from the model's default."""
    stated: dict[str, Any] = {}
    if settings.tag is not None:
        known = open_clip().get_pretrained_cfg(settings.model, settings.tag)
        stated = {name: known[name] for name in PREPROCESSING if name in known}
    if settings.normalise is not None:
        stated["mean"], stated["std"] = NORMALISATIONS[settings.normalise]
    return stated


def _load_file(model: Any, path: Path, settings: Encoder) -> None:
    fix = (
        "use weights of the same model: safetensors or a plain state dict in open_clip's format, "
        "or OpenAI's own file (code in a pickle is never run)"
    )
    state = openai_state(path, model, fix)
    try:
        if state is not None:
            model.load_state_dict(state, strict=True)
        else:
            open_clip().load_checkpoint(model, str(path), strict=True, weights_only=True)
    except Exception as error:
        # open_clip and torch raise a dozen kinds here: pickled code, other shapes, not a file.
        what = difference(path, model, state) or first_line(error)
        raise UserError(
            f"these are not weights of {settings.model}: {what}", where=path, fix=fix
        ) from None


def visual_activations(visual: nn.Module) -> set[str]:
    """Which of gelu and quickgelu the image tower actually uses."""
    kinds = {open_clip().transformer.QuickGELU: "quickgelu", nn.GELU: "gelu"}
    return {
        name
        for module in visual.modules()
        for kind, name in kinds.items()
        if isinstance(module, kind)
    }


def swap_activations(visual: nn.Module) -> None:
    """Exchange gelu and quickgelu in an image tower, in place."""
    quick = open_clip().transformer.QuickGELU
    for module in list(visual.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, quick):
                setattr(module, name, nn.GELU())
            elif isinstance(child, nn.GELU):
                setattr(module, name, quick())


def _check_activation(visual: nn.Module, settings: Encoder) -> None:
    runs = visual_activations(visual)
    if runs and runs != {settings.activation}:
        raise wrong_activation(settings, runs, "encoders.<name>")


__all__ = ["IS_NETWORK", "check", "cost", "describe_input", "load", "record", "stand_in"]
