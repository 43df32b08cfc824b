"""What the host leaves to a GPU before the network: the same inputs as open_clip's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipaffect.config.encoders import Encoder
from clipaffect.core.local_gpus import local_gpus
from clipaffect.encoders.kinds.open_clip import (
    GPU_BATCHES,
    build_model,
    build_tower,
    device_inputs,
    largest_batch,
    preparation,
)
from clipaffect.encoders.pillow_resize import MOST_TAPS, PillowResize

MICRO = Encoder(model="clipaffect-micro", random=0, activation="gelu", precision="fp32", batch=8)


def noise(*shape: int) -> np.ndarray:
    """Uniform noise, half of it black and white: rounding and clipping everywhere."""
    drawn = np.random.default_rng(shape).integers(0, 256, shape, np.uint8)
    drawn[: len(drawn) // 2] = (drawn[: len(drawn) // 2] > 127) * 255
    return drawn


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(112, 224), (97, 224), (64, 224), (224, 64), (300, 64), (512, 224), (8, 9)],
)
def test_resizing_is_pillows_to_the_bit(name: str, before: int, after: int) -> None:
    picture = noise(before, before, 3)
    theirs = Image.fromarray(picture).resize((after, after), Image.Resampling[name.upper()])
    levels = torch.from_numpy(picture).permute(2, 0, 1).float()
    assert PillowResize.is_exact(before, after, name)
    ours = PillowResize(before, after, name, "cpu")(levels).permute(1, 2, 0).numpy()
    assert (ours == np.asarray(theirs)).all()


def test_sums_that_float32_could_not_hold_are_left_to_pillow() -> None:
    assert MOST_TAPS == 64
    assert PillowResize.is_exact(3200, 224, "bicubic")
    assert not PillowResize.is_exact(3600, 224, "bicubic")
    assert not PillowResize.is_exact(100, 224, "lanczos")


def test_the_device_gets_what_open_clip_prepares() -> None:
    """Crops of several sizes in one batch, one of them not square and one huge."""
    visual = build_model(MICRO, Path()).visual
    shapes = [(112, 112), (64, 64), (80, 60), (112, 112), (1400, 1400), (60, 60)]
    pictures = [noise(*shape, 3) for shape in shapes]
    inputs = device_inputs(visual, "cpu", torch.float32)
    groups = inputs.gather(pictures, 8)
    assert all(pixels.dtype == torch.uint8 for _, pixels in groups)
    found = inputs.on_device(groups)
    assert len(found) == 32, "padded to a size that GPUs like"
    prepare = preparation(visual)
    for own, picture in zip(found, pictures, strict=False):
        assert torch.equal(own, prepare(picture))
    assert not found[len(pictures) :].any()


def test_the_batch_is_the_largest_that_fits() -> None:
    tried = []

    def embed(count: int) -> torch.Tensor:
        tried.append(count)
        if count > 64:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(count, 5)

    batch, features = largest_batch(embed)
    assert (batch, features.shape) == (64, (64, 5))
    assert tried == [256, 128, 64]

    def never(count: int) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        largest_batch(never)
    assert GPU_BATCHES[-1] == 32


def test_a_tower_without_its_text_tower_has_the_same_weights(tmp_path: Path) -> None:
    from hashlib import sha256

    from safetensors.torch import save_file

    model = build_model(MICRO, Path())
    path = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    file = MICRO.model_copy(
        update={
            "random": None,
            "file": str(path),
            "sha256": sha256(path.read_bytes()).hexdigest(),
        }
    )
    own, theirs = build_tower(file, Path()).state_dict(), model.visual.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.parametrize(
    ("visible", "stated", "expected"),
    [(None, None, 2), ("1", None, 1), ("", None, 0), ("-1", None, 0), ("0,1", "0", 0)],
)
def test_gpus_are_counted_without_torch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    stated: str | None,
    expected: int,
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr("clipaffect.core.local_gpus.DEVICES", tmp_path)
    monkeypatch.setattr("clipaffect.core.local_gpus.version", lambda name: "2.13.0")
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("CLIPAFFECT_GPUS", stated)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert local_gpus() == expected
    monkeypatch.setattr("clipaffect.core.local_gpus.version", lambda name: "2.13.0+cpu")
    assert local_gpus() == 0
    assert local_gpus(own_torch=False) == expected
