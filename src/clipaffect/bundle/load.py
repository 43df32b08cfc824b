"""Open an untrusted bundle: check it completely, then build the heads.

No code from a bundle is run. Weights are read only after names, sizes, shapes and hashes match.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from clipaffect.bundle.feature_statistics import FeatureStatistics, from_tensors
from clipaffect.bundle.format import AGAIN, NAME, Bundle, Heads, TaskModel, read_bundle
from clipaffect.bundle.prediction_columns import columns
from clipaffect.config.encoders import Encoder
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.errors import UserError, first_line
from clipaffect.core.hashing import file_digest
from clipaffect.core.tensors import read_tensors
from clipaffect.training.mlp_head import Head

logger = logging.getLogger(__name__)

# Stages that a score depends on between the file and the heads.
USED = ("frames", "detections", "embeddings", "encoders", "joined", "prediction")


@dataclass(frozen=True)
class OpenBundle:
    """A bundle that has passed all checks.

    Attributes:
        folder: where it lies.
        bundle: what ``bundle.json`` says.
        fingerprint: sha256 of ``bundle.json``, which holds those of all files.
        encoders: by name, ready to be loaded.
    """

    folder: Path
    bundle: Bundle
    fingerprint: str
    encoders: dict[str, Encoder]


def open_bundle(
    folder: Path, weights: dict[str, Path] | None = None, *, with_weights: bool = True
) -> OpenBundle:
    """Check a bundle.

    Args:
        folder: with ``bundle.json``; or that file.
        weights: by encoder, files that the bundle names and does not hold.
        with_weights: whether the encoders will be loaded: their weights must be there then.

    Raises:
        UserError: no bundle, one of a later format, a file that is missing, altered or not what
            it should be, or weights of another encoder.
    """
    folder = folder.parent if folder.name == NAME else folder
    bundle = read_bundle(folder / NAME)
    for name, stated in bundle.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError("a file of the bundle is missing", where=path, fix=AGAIN)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError("a file of the bundle lies outside its folder", where=path, fix=AGAIN)
        if path.stat().st_size != stated.bytes or file_digest(path) != stated.sha256:
            raise UserError("a file of the bundle has been modified", where=path, fix=AGAIN)
    for name, task in bundle.tasks.items():
        _check_heads(folder / task.file, task, name)
    if bundle.feature_statistics is not None:
        _check_statistics(folder / bundle.feature_statistics, bundle)
    given = weights or {}
    for name in given:
        if name not in bundle.encoders or bundle.encoders[name].file is None:
            raise UserError(
                f"the bundle does not need weights for '{name}'",
                where="--weights",
                fix=f"use one of its encoders: {', '.join(bundle.encoders)}",
            )
    encoders = {
        name: _with_weights(encoder, name, bundle, folder, given.get(name))
        if with_weights
        else encoder
        for name, encoder in bundle.encoders.items()
    }
    columns(bundle, heads=True)  # whose names must differ
    other = sorted(k for k, v in bundle.stages.items() if VERSIONS.get(k, v) != v and k in USED)
    if other:
        logger.warning(
            "%s: made with another version of %s: scores may differ from those that it states",
            folder,
            ", ".join(other),
        )
    return OpenBundle(folder, bundle, file_digest(folder / NAME), encoders)


def expected_shapes(heads: Heads, task: TaskModel) -> dict[str, tuple[int, ...]]:
    """The shapes of a head's weights by name, without building it."""
    sizes = [heads.inputs, *[heads.width] * heads.hidden_layers]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(heads.hidden_layers):
        shapes[f"linears.{layer}.weight"] = (sizes[layer + 1], sizes[layer])
        shapes[f"linears.{layer}.bias"] = (sizes[layer + 1],)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"norms.{layer}.{name}"] = (heads.width,)
        shapes[f"norms.{layer}.num_batches_tracked"] = ()
    shapes["output.weight"] = (len(task.targets), sizes[-1])
    shapes["output.bias"] = (len(task.targets),)
    return shapes


def _check_heads(path: Path, task: TaskModel, name: str) -> None:
    wanted = {
        f"{own.features}/seed={seed}/{key}": shape
        for own in task.heads
        for seed in own.seeds
        for key, shape in expected_shapes(own, task).items()
    }
    typed = {
        key: (shape, "I64" if key.endswith("num_batches_tracked") else "F32")
        for key, shape in wanted.items()
    }
    _check_tensors(path, typed, f"the heads of {name}")


def _check_tensors(path: Path, wanted: dict[str, tuple[tuple[int, ...], str]], what: str) -> None:
    """Compare the names, shapes and types of a file's tensors without reading their values."""
    try:
        with safe_open(path, "pt") as file:
            found: dict[str, tuple[Any, str]] = {}
            for key in file.keys():  # noqa: SIM118 - no dictionary
                part = file.get_slice(key)
                found[key] = (tuple(part.get_shape()), part.get_dtype())
    except (SafetensorError, OSError) as error:
        raise UserError(f"bad safetensors: {first_line(error)}", where=path, fix=AGAIN) from None
    for key in sorted(set(wanted) | set(found)):
        if found.get(key) != wanted.get(key):
            raise UserError(
                f"{what} do not match their description in {NAME}: {key}",
                where=path,
                fix=AGAIN,
            )


def _with_weights(
    encoder: Encoder, name: str, bundle: Bundle, folder: Path, given: Path | None
) -> Encoder:
    """An encoder whose ``file`` is a path, either inside the bundle or given by the user."""
    if encoder.file is None:
        return encoder
    if given is None and encoder.file not in bundle.files:
        raise UserError(
            f"the bundle does not contain the weights of '{name}' ({encoder.model})",
            where=folder,
            fix=f"pass --weights {name}=FILE, a file with sha256 {encoder.sha256}",
        )
    path = given or folder / encoder.file
    if not path.is_file():
        raise UserError("the weights file does not exist", where=path, fix="correct --weights")
    if file_digest(path) != encoder.sha256:
        raise UserError(
            f"the heads of '{name}' were trained on other weights: the file has sha256 "
            f"{file_digest(path)}, expected {encoder.sha256}",
            where=path,
            fix="pass the file with the expected sha256, or use a bundle made for this encoder",
        )
    return encoder.model_copy(update={"file": str(path)})


def _check_statistics(path: Path, bundle: Bundle) -> None:
    inputs = next(iter(bundle.tasks.values())).heads[0].inputs
    wanted = {
        "mean": (inputs,),
        "whiten": (inputs, inputs),
        "limit": (1,),
    }
    _check_tensors(
        path, {name: (shape, "F32") for name, shape in wanted.items()}, "the feature statistics"
    )


def load_statistics(opened: OpenBundle) -> FeatureStatistics | None:
    """The distribution of the training features of the heads' own features, if it is there."""
    if opened.bundle.feature_statistics is None:
        return None
    return from_tensors(read_tensors(opened.folder / opened.bundle.feature_statistics))


def load_heads(opened: OpenBundle, task: str) -> dict[str, dict[int, Head]]:
    """Load the heads of a task in evaluation mode, by features and seed."""
    model = opened.bundle.tasks[task]
    found: dict[str, dict[int, Head]] = {}
    for own in model.heads:
        for seed in own.seeds:
            head = Head(own.inputs, len(model.targets), own.hidden_layers, own.width)
            state = read_tensors(opened.folder / model.file, f"{own.features}/seed={seed}/")
            head.load_state_dict(state)
            found.setdefault(own.features, {})[seed] = head.eval()
    return found
