"""Why torch cannot use a GPU, what CUDA's errors mean, and arithmetic that is true float32."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clipaffect.core.errors import UserError, first_line
from clipaffect.core.local_gpus import NONE

# Set by SLURM, other schedulers and users who grant a process GPUs.
GRANTS = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES")
# Set by the rules: the number of GPUs of the job. Snakemake's SLURM plugin hides SLURM's variables.
GIVEN = "CLIPAFFECT_GPUS_OF_JOB"
BUSY = re.compile("busy or unavailable|devices? (is|are) busy|exclusive", re.IGNORECASE)
MEMORY = (
    "free the GPU ('nvidia-smi' shows what uses it) or use a larger one; to train, also fewer "
    "heads in a job (more training.parts). What was finished is kept"
)


def granted_by() -> str | None:
    """The variable that grants this process a GPU, with its value; None without a grant."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in NONE:
        return None  # hidden on purpose
    given = os.environ.get(GIVEN, "0")
    if given not in ("", "0"):
        return f"{GIVEN}={given} (the resource gpu of the rule)"
    for name in GRANTS:
        value = os.environ.get(name, "")
        if value not in NONE:
            return f"{name}={value}"
    return None


def why_not() -> tuple[str, str]:
    """Why torch sees no GPU, and what to do about it."""
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is a CPU build",
            "install the CUDA build ('pip install --force-reinstall torch' on Linux, without an "
            "extra index), or run with --use-conda and 'environment: cuda'; to compute on the CPU, "
            "set 'environment: cpu' and CLIPAFFECT_GPUS=0",
        )
    try:
        torch.cuda.init()
    except Exception as error:
        cause = first_line(error)
        if "too old" in cause:
            return (
                f"the driver is too old for CUDA {torch.version.cuda}, which torch "
                f"{torch.__version__} was built for: {cause}",
                "ask for a newer driver, or install a torch that was built for an older CUDA: "
                "https://pytorch.org/get-started/previous-versions",
            )
        if BUSY.search(cause):
            return f"another process uses the GPU alone: {cause}", "wait for it, or use another GPU"
        return cause, "run 'nvidia-smi' on this machine; ask for a node with a GPU that works"
    return "the driver shows none", "run 'nvidia-smi' on this machine; ask for a node with a GPU"


def is_supported(number: int) -> bool:
    """Whether torch has code for a GPU: binary for its generation, or PTX for an earlier one."""
    major, minor = torch.cuda.get_device_capability(number)
    for built in torch.cuda.get_arch_list():
        kind, _, digits = built.partition("_")
        digits = re.match(r"\d+", digits)[0]  # type: ignore[index] # such as 90a
        own = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and own[0] == major and own[1] <= minor:
            return True
        if kind == "compute" and own <= (major, minor):
            return True
    return False


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute true float32 on a GPU, reproducible to the byte.

    torch leaves cuDNN's convolutions at TF32, which keeps 10 bits of the mantissa, and at
    algorithms whose sums may have another order each time. NVIDIA's containers put matrix products
    at TF32.
    """
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        products.allow_tf32 = before


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the device or the host is too small."""
    # The last two are cuBLAS's and cuDNN's words, whose workspaces did not fit.
    said = ("out of memory", "allocate memory", "STATUS_ALLOC_FAILED", "ALLOCATION_FAILED")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


@contextmanager
def explained(device: str) -> Iterator[None]:
    """Turn what CUDA says when memory or the GPU itself fails into a message."""
    try:
        yield
    except RuntimeError as error:
        said = first_line(error)
        if is_out_of_memory(error):
            raise UserError(
                f"the memory of the GPU is too small: {said}", where=device, fix=MEMORY
            ) from None
        if "CUDA error" not in said:
            raise
        raise UserError(
            f"the GPU failed: {said}",
            where=device,
            fix="run the same command again: what was finished is kept. If it fails again, look "
            "for 'Xid' in 'dmesg' and use another GPU",
        ) from None
