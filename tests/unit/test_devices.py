"""One job, one GPU: the locks, tried with processes and UUIDs instead of GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from forked import Forked, forked

from clipaffect.config.encoders import Encoder
from clipaffect.core import gpu as devices
from clipaffect.core.gpu import one_device
from clipaffect.encoders.feature_record import arithmetic
from clipaffect.encoders.registry import encoder_record


def keep_one(locks: Path, uuids: tuple[str, ...]) -> None:
    """A job that sees some GPUs and keeps the one that it gets."""
    devices.LOCKS, devices.AGAIN = locks, 0.05
    devices.visible_gpus = lambda: list(uuids)
    torch.cuda.is_available = lambda: True
    torch.cuda.set_device = lambda number: None
    with one_device(True) as device:
        print(device, flush=True)
        time.sleep(600)


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Forked]]:
    """Starts such jobs."""
    with ExitStack() as jobs:
        yield lambda *uuids: jobs.enter_context(forked(keep_one, tmp_path / "locks", uuids))


def test_two_jobs_take_two_gpus_and_a_third_waits_for_a_dead_one(
    hold: Callable[..., Forked],
) -> None:
    first = hold("GPU-a", "GPU-b")
    assert first.stdout.readline() == "cuda:0\n"
    # A scheduler's cgroup shows this job the same GPUs in another order.
    second = hold("GPU-a", "GPU-b")
    assert second.stdout.readline() == "cuda:1\n"
    third = hold("GPU-b", "GPU-a")
    assert third.stderr.readline() == "waiting: 2 of 2 GPUs are taken\n"
    first.kill()
    assert third.stdout.readline() == "cuda:1\n"


def test_a_gpu_is_known_by_its_uuid_not_its_number(hold: Callable[..., Forked]) -> None:
    assert hold("GPU-a").stdout.readline() == "cuda:0\n"
    assert hold("GPU-b").stdout.readline() == "cuda:0\n"


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with one_device(True) as device:
        assert device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["GPU-a"])
    with one_device(False) as device:
        assert device == "cpu"


def test_on_a_gpu_float32_is_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["GPU-a"])
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    assert convolutions.allow_tf32, "torch's own default"
    products.allow_tf32 = True  # as in NVIDIA's containers
    try:
        with one_device(True):
            assert not convolutions.allow_tf32
            assert not products.allow_tf32
            assert convolutions.deterministic
        assert convolutions.allow_tf32
        assert products.allow_tf32
    finally:
        products.allow_tf32 = False


@pytest.mark.parametrize(
    ("device", "native", "expected"),
    [
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
        ("cuda:1", True, torch.bfloat16),
        ("cuda:1", False, torch.float16),
    ],
)
def test_bf16_falls_back_where_a_device_lacks_it(
    monkeypatch: pytest.MonkeyPatch, device: str, native: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr("clipaffect.encoders.feature_record.has_bf16", lambda device: native)
    settings = Encoder(model="clipaffect-micro", random=0, activation="gelu", precision="bf16")
    assert arithmetic(settings, device) == expected
    record = encoder_record(settings, Path(), device)
    assert record["device"] == device.partition(":")[0]
    # Features of another arithmetic are other features: they never share a key in the store.
    assert record.get("arithmetic") == (None if native else str(expected))
