"""Weights in OpenAI's own files: a TorchScript archive, and a state dict with three more keys."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clipaffect.config.encoders import Encoder
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import file_digest
from clipaffect.encoders.kinds.open_clip import build_model, build_tower
from clipaffect.encoders.torchscript_archive import is_torchscript, read_torchscript
from clipaffect.encoders.untrained import create_untrained

MICRO = "clipaffect-micro"
EXTRA = {"input_resolution": 64, "context_length": 16, "vocab_size": 64}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Half precision, as OpenAI's."""
    torch.manual_seed(1)
    state = create_untrained(MICRO).state_dict()
    return {name: value.half() for name, value in state.items()}


class Branch(nn.Module):
    """A module with given parts, so that a tree of modules has the names of a CLIP."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in state.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = value
            elif value.is_floating_point():
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        for name, own in inner.items():
            self.add_module(name, Branch(own))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def archive_of(state: dict[str, torch.Tensor], path: Path) -> Path:
    """A real TorchScript archive, as ``torch.jit.save`` writes it."""
    extra = {name: torch.tensor(value) for name, value in EXTRA.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(Branch(state | extra), torch.zeros(1)), path)
    return path


def settings(path: Path) -> Encoder:
    return Encoder(model=MICRO, file=str(path), sha256=file_digest(path), activation="gelu")


def same(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name].half(), value) for name, value in expected.items()
    )


def test_an_archive_gives_its_module_trees_weights(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = archive_of(weights, tmp_path / "ViT.pt")
    assert is_torchscript(path)
    found = read_torchscript(path)
    # torch's own reader, which runs what is in the archive
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = torch.jit.load(path).state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_a_model_is_built_from_either_file(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    archive = archive_of(weights, tmp_path / "archive.pt")
    plain = tmp_path / "state.pt"
    torch.save(weights | {name: torch.tensor(value) for name, value in EXTRA.items()}, plain)
    for path in (archive, plain):
        assert same(build_model(settings(path), tmp_path).state_dict(), weights)
        tower = build_tower(settings(path), tmp_path).state_dict()
        visual = {
            name.removeprefix("visual."): value
            for name, value in weights.items()
            if name.startswith("visual.")
        }
        assert same(tower, visual)


def test_weights_of_another_model_are_told_by_their_numbers(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    extra = EXTRA | {"input_resolution": 224}
    torch.save(weights | {name: torch.tensor(value) for name, value in extra.items()}, path)
    with pytest.raises(UserError, match="input_resolution 224, but the model has 64"):
        build_model(settings(path), tmp_path)


def test_a_wrong_shape_is_told_with_key_and_shapes(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    changed = dict(weights)
    del changed["ln_final.bias"]
    save_file(changed | {"visual.proj": torch.zeros(3, 3), "more": torch.zeros(1)}, path)
    with pytest.raises(UserError) as caught:
        build_model(settings(path), tmp_path)
    said = str(caught.value)
    assert "1 tensors are missing (ln_final.bias)" in said
    assert "1 tensors are unexpected (more)" in said
    assert "visual.proj is (3, 3), not (64, 64)" in said
    assert "use weights of the same model" in said


def test_nothing_in_an_archive_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "trap.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trap/code/__torch__.py", "raise SystemExit")
        archive.writestr("trap/data.pkl", pickle.dumps(Trap(), protocol=2))
    with pytest.raises(UserError, match="cannot be read as a tree of modules"):
        build_model(settings(path), tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_a_damaged_archive_is_no_traceback(
    weights: dict[str, torch.Tensor], tmp_path: Path, cut: float
) -> None:
    whole = archive_of(weights, tmp_path / "whole.pt")
    path = tmp_path / "cut.pt"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            short = name.endswith("data.pkl") or name.endswith("data/3")
            target.writestr(name, data[: int(len(data) * cut)] if short else data)
    with pytest.raises(UserError, match="cannot be read as a tree of modules"):
        build_model(settings(path), tmp_path)
