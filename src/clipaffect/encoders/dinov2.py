"""Convert the DINOv2 ViT-S/14 in an ONNX file to weights for open_clip's timm tower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

LAYERS = 12


def _weights(path: Path) -> dict[str, np.ndarray]:
    """Weights of the backbone by their names in the original model.

    The exporter moved some into anonymous constants, the matrices of linear layers transposed;
    the node that uses a constant tells whose it is.
    """
    # A fifth of a second to import, and no other encoder needs it.
    import onnx  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    graph = onnx.load(str(path)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    named = {name: array for name, array in constants.items() if name.startswith("backbone.")}
    for node in graph.node:
        used = [constants[name] for name in node.input if name in constants]
        if node.op_type == "MatMul" and used and used[0].ndim == 2:
            layer = node.name.strip("/").replace("/", ".").removesuffix(".MatMul")
            named[f"{layer}.weight"] = used[0].T
        elif node.name == "/backbone/embeddings/Concat_6":
            named["class_position"] = used[0]
        elif node.name == "/backbone/embeddings/Reshape_1":
            named["grid_position"] = used[0]
    return named


def _position_embedding(source: dict[str, np.ndarray]) -> np.ndarray:
    """(1, 257, 384): DINOv2's 37 x 37 grid of positions resized to the 16 x 16 of 224 px."""
    grid = torch.from_numpy(source["grid_position"].copy()).reshape(1, 37, 37, -1)
    resized = functional.interpolate(grid.permute(0, 3, 1, 2), size=(16, 16), mode="bicubic")
    patches = resized.permute(0, 2, 3, 1).reshape(1, 256, -1).numpy()
    return np.concatenate([source["class_position"], patches], axis=1)


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Weights of the backbone under timm's names (``vit_small_patch14_dinov2``, 224 px)."""
    source = _weights(path)
    front = "backbone.embeddings"
    state = {
        "cls_token": source[f"{front}.cls_token"],
        "pos_embed": _position_embedding(source),
        "patch_embed.proj.weight": source[f"{front}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": source[f"{front}.patch_embeddings.projection.bias"],
        "norm.weight": source["backbone.layernorm.weight"],
        "norm.bias": source["backbone.layernorm.bias"],
    }
    for layer in range(LAYERS):
        old, new = f"backbone.encoder.layer.{layer}.", f"blocks.{layer}."
        for kind in ("weight", "bias"):
            attention = f"{old}attention.attention."
            state[f"{new}attn.qkv.{kind}"] = np.concatenate(
                [source[f"{attention}{part}.{kind}"] for part in ("query", "key", "value")]
            )
            state[f"{new}attn.proj.{kind}"] = source[f"{old}attention.output.dense.{kind}"]
            for part in ("norm1", "norm2"):
                state[f"{new}{part}.{kind}"] = source[f"{old}{part}.{kind}"]
            for part in ("fc1", "fc2"):
                state[f"{new}mlp.{part}.{kind}"] = source[f"{old}mlp.{part}.{kind}"]
        for part, scale in (("ls1", "layer_scale1"), ("ls2", "layer_scale2")):
            state[f"{new}{part}.gamma"] = source[f"{old}{scale}.lambda1"]
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}
