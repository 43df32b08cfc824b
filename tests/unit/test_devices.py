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
from clipaffect.core.errors import UserError
from clipaffect.core.gpu import one_device
from clipaffect.core.gpu_faults import GRANTS, is_supported
from clipaffect.encoders.feature_record import arithmetic
from clipaffect.encoders.registry import encoder_record


class Card:
    """A GPU as torch shows it."""

    def __init__(self, uuid: str, capability: tuple[int, int] = (9, 0)) -> None:
        self.uuid, self.capability, self.name = uuid, capability, f"NVIDIA {uuid}"


def pretend(monkeypatch: pytest.MonkeyPatch, locks: Path, *cards: Card) -> None:
    """Some GPUs, and a torch that was built for Turing to Blackwell."""
    built = ["sm_75", "sm_80", "sm_90", "sm_100", "compute_120"]
    for name, value in {
        "is_available": lambda: bool(cards),
        "device_count": lambda: len(cards),
        "get_device_properties": lambda number: cards[number],
        "get_device_capability": lambda number: cards[number].capability,
        "get_arch_list": lambda: built,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(devices, "open_gpu", lambda number: None)
    monkeypatch.setattr(devices, "LOCKS", locks)
    monkeypatch.setattr(devices, "AGAIN", 0.05)


def keep_one(locks: Path, uuids: tuple[str, ...]) -> None:
    """A job that sees some GPUs and keeps the one that it gets."""
    pretend(pytest.MonkeyPatch(), locks, *map(Card, uuids))
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


def take_turns(locks: Path) -> None:
    """A process that works on several videos, as those of ``clipaffect predict``."""
    pretend(pytest.MonkeyPatch(), locks, Card("GPU-a"))
    for _ in range(3):
        with one_device(True):
            time.sleep(0.01)
        time.sleep(0.01)


def test_processes_that_live_on_take_turns(tmp_path: Path) -> None:
    with (
        forked(take_turns, tmp_path / "locks") as first,
        forked(take_turns, tmp_path / "locks") as second,
    ):
        for process in (first.process, second.process):
            process.join(60)
            assert process.exitcode == 0


@pytest.fixture
def granted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the variables that grant GPUs; none by default."""

    def grant(**values: str) -> None:
        for name in GRANTS:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    grant()
    return grant


def test_without_a_gpu_it_is_the_cpu_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    granted: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "clipaffect")
    pretend(monkeypatch, tmp_path / "locks")
    with one_device(True) as device:
        assert device == "cpu"
    assert f"device: cpu (torch {torch.__version__} sees no GPU)" in caplog.text
    granted(CUDA_VISIBLE_DEVICES="", SLURM_JOB_GPUS="0")  # hidden on purpose
    with one_device(True) as device:
        assert device == "cpu"
    pretend(monkeypatch, tmp_path / "locks", Card("GPU-a"))
    with one_device(False) as device:
        assert device == "cpu"
    caplog.clear()
    with one_device(True) as device:
        assert device == "cuda:0"
    assert "device: cuda:0, NVIDIA GPU-a" in caplog.text


def test_a_job_that_was_given_no_gpu_takes_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path / "locks", Card("GPU-a"))
    monkeypatch.setenv("CLIPAFFECT_GPUS_OF_JOB", "0")
    with one_device(True) as device:
        assert device == "cpu"
    with one_device(True, "training.device: cuda") as device:
        assert device == "cuda:0"


def fails(said: str) -> Callable[..., None]:
    def raising(*_: object) -> None:
        raise RuntimeError(said)

    return raising


OLD = "The NVIDIA driver on your system is too old (found version 11040)."


@pytest.mark.parametrize(
    ("build", "said", "cause", "fix"),
    [
        (None, "", "is a CPU build", "environment: cuda"),
        ("13.0", OLD, "too old for CUDA 13.0", "newer driver"),
        ("13.0", "Found no NVIDIA driver on your system.", "Found no NVIDIA driver", "nvidia-smi"),
        ("13.0", "CUDA error: all CUDA-capable devices are busy or unavailable", "alone", "wait"),
    ],
)
@pytest.mark.parametrize("variable", ["SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", None])
def test_a_gpu_that_was_granted_is_never_replaced_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    granted: Callable[..., None],
    build: str | None,
    said: str,
    cause: str,
    fix: str,
    variable: str | None,
) -> None:
    pretend(monkeypatch, tmp_path / "locks")
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.cuda, "init", fails(said))
    if variable:
        granted(**{variable: "0"})
    with (
        pytest.raises(UserError, match=cause) as raised,
        one_device(True, None if variable else "training.device: cuda"),
    ):
        pytest.fail("the block was entered")
    assert raised.value.where == (f"{variable}=0" if variable else "training.device: cuda")
    assert fix in raised.value.fix


def test_a_card_that_torch_has_no_code_for_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    volta, hopper = Card("GPU-v", (7, 0)), Card("GPU-h", (9, 0))
    pretend(monkeypatch, tmp_path / "locks", volta)
    with pytest.raises(UserError, match=r"no code for NVIDIA GPU-v \(compute capability 7.0\)"):
        one_device(True).__enter__()
    pretend(monkeypatch, tmp_path / "locks", volta, hopper)
    with one_device(True) as device:
        assert device == "cuda:1"


@pytest.mark.parametrize(
    ("capability", "supported"),
    [
        ((7, 0), False),
        ((7, 5), True),
        ((8, 6), True),
        ((9, 0), True),
        ((12, 1), True),
        ((11, 0), False),
    ],
)
def test_which_cards_torch_has_code_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: tuple[int, int], supported: bool
) -> None:
    """Binary code runs on later cards of its generation, PTX on later generations."""
    pretend(monkeypatch, tmp_path / "locks", Card("GPU-a", capability))
    assert is_supported(0) == supported


def test_a_card_that_another_program_has_alone_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path / "locks", Card("GPU-a"), Card("GPU-b"))

    def open_gpu(number: int) -> None:
        if number == 0:
            fails("CUDA error: CUDA-capable device(s) is/are busy or unavailable")()

    monkeypatch.setattr(devices, "open_gpu", open_gpu)
    with one_device(True) as device:
        assert device == "cuda:1"


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "too small"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), "too small"),
        (RuntimeError("cuDNN error: INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "too small"),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), "the GPU failed"),
    ],
)
def test_what_cuda_says_in_the_middle_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, what: str
) -> None:
    pretend(monkeypatch, tmp_path / "locks", Card("GPU-a"))
    with pytest.raises(UserError, match=what) as raised, one_device(True):
        raise error
    assert raised.value.where == "cuda:0, NVIDIA GPU-a"
    with pytest.raises(RuntimeError, match="of another kind"), one_device(True):
        raise RuntimeError("of another kind")


def test_on_a_gpu_float32_is_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, tmp_path / "locks", Card("GPU-a"))
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
