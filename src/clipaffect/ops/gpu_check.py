"""Check the GPU paths on a machine with an NVIDIA GPU: ``clipaffect gpu-check``.

It needs no network, and from a plain checkout nothing but torch (2.5 or later) and numpy:

    PYTHONPATH=src python -m clipaffect gpu-check

Checks whose packages are missing are named and skipped. A table and one JSON line are printed; the
exit status is 1 if a promise is broken, 2 if there is no usable GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipaffect.core.gpu_faults import full_float32, is_supported, why_not
from clipaffect.core.tasks import EXPR
from clipaffect.encoders.pillow_resize import PillowResize
from clipaffect.training.backends.cuda_graphs import graphed
from clipaffect.training.backends.stacked_masks import StackedMasks
from clipaffect.training.backends.stacked_step import FIELDS, StackedStep
from clipaffect.training.losses.exact_cvar import Cvar
from clipaffect.training.losses.stacked_cvar import StackedPublishedCvar
from clipaffect.training.mlp_head import Head
from clipaffect.training.step_cost import step_cost

INPUTS = 768
LONGEST = 90  # seconds of a child
NETWORK = ("pydantic", "open_clip", "torchvision", "PIL", "cv2")


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        width: of the heads.
        heads, seeds: of the stack whose rate is measured.
        steps: that are timed.
        product: side of the matrices, and ``copied`` bytes, that find the device's limits.
        crops: compared between CPU and GPU.
        model: open_clip's name of the network.
    """

    width: int = 768
    heads: int = 50
    seeds: int = 5
    steps: int = 100
    product: int = 8192
    copied: int = 2**30
    crops: int = 8
    model: str = "ViT-L-14-quickgelu"


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was measured, and what was promised (None: no promise)."""

    name: str
    value: float
    unit: str
    limit: str = ""
    holds: bool | None = None


class Limits:
    """What the device can do: operations per second by type, and bytes per second."""

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.device = device
        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        self.flop = {name: self._flop(kind, sizes.product) for name, kind in kinds.items()}
        source = torch.empty(sizes.copied // 4, device=device)
        target = torch.empty_like(source)
        self.bytes = 2 * source.nbytes / seconds(device, lambda: target.copy_(source), 10)

    def _flop(self, kind: torch.dtype, side: int) -> float:
        a = torch.ones(side, side, dtype=kind, device=self.device)
        return 2 * side**3 / seconds(self.device, lambda: torch.mm(a, a), 10)

    def share(self, taken: float, flop: float, moved: float, kind: str) -> float:
        """The time that flop or bytes need at least, over the time that was taken."""
        return max(flop / self.flop[kind], moved / self.bytes) / taken


def seconds(device: str, work: Callable[[], object], times: int) -> float:
    """Seconds of one call, after one to warm up."""
    work()
    wait(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - started) / times


def wait(device: str) -> None:
    """Wait until a GPU has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def recipe(sizes: Sizes, batch: int, products: str = "fp32") -> Any:
    """The published recipe, as far as a step knows it."""
    return SimpleNamespace(
        hidden_layers=3,
        width=sizes.width,
        dropout=0.6,
        rho=0.5,
        perturbation="l2",
        batch=batch,
        products=products,
        loss_over="elements",
        weight_decay=1e-4,
    )


def stack_of(
    sizes: Sizes, chosen: Any, heads: int, device: str, dtype: torch.dtype, published: bool = False
) -> StackedStep:
    """Heads of several alphas and seeds on a device."""
    seeds = [number % sizes.seeds for number in range(heads)]
    outputs, layers = len(EXPR.targets), chosen.hidden_layers
    made = [Head(INPUTS, outputs, layers, sizes.width, seed).to(dtype) for seed in seeds]
    levels = [[(number % 10 + 1) / 10] for number in range(heads)]
    alphas = torch.tensor(levels, dtype=torch.float64).to(device)
    risk = StackedPublishedCvar(alphas) if published else Cvar(alphas)
    stack = StackedStep(made, seeds, risk, EXPR, [chosen] * heads, True, device)
    stack.rate.fill_(1e-3)
    return stack


def batches(sizes: Sizes, batch: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features (S, B, d) float16 and labels of random frames whose classes can be told apart."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, INPUTS))
    for _ in range(steps):
        labels = rng.integers(0, 8, (sizes.seeds, batch))
        features = centres[labels] + rng.normal(size=(sizes.seeds, batch, INPUTS)) * 3
        yield (
            torch.from_numpy(features.astype(np.float16)),
            torch.from_numpy(labels[..., None].astype(np.int8)),
        )


def check_resizing(device: str, sizes: Sizes, limits: Limits) -> Iterator[Finding]:
    """The device resizes to the same grey levels as the CPU (whose are Pillow's)."""
    rng = np.random.default_rng(0)
    wrong = 0
    for before, after in ((112, 224), (300, 224), (224, 64)):
        levels = torch.from_numpy(rng.integers(0, 256, (4, 3, before, before)).astype(np.float32))
        found = [
            PillowResize(before, after, "bicubic", where)(levels.to(where)).cpu()
            for where in ("cpu", device)
        ]
        wrong += int((found[0] != found[1]).sum())
    yield Finding("pixels resized otherwise than on the CPU", wrong, "", "0", wrong == 0)


def check_masks(device: str, sizes: Sizes, limits: Limits) -> Iterator[Finding]:
    """The device draws NumPy's dropout masks."""
    chosen = recipe(sizes, 32)
    drawn = StackedMasks([0, 3], chosen, torch.zeros((), device=device)).draw(7, 2, 32).cpu()
    count = drawn[0, 0].numel()
    wrong = 0
    for step, seed, own in ((0, 0, drawn[0, 0]), (1, 3, drawn[1, 1])):
        bits = np.random.Philox(key=seed, counter=[0, 0, 0, 7 + step]).random_raw(-(-count // 4))
        kept = torch.from_numpy(bits.view(np.uint16)[:count] >= round(0.6 * 65536))
        wrong += int((kept.view(own.shape) != (own > 0)).sum())
    yield Finding("dropout bits other than NumPy's", wrong, "", "0", wrong == 0)


def check_step(device: str, sizes: Sizes, limits: Limits) -> Iterator[Finding]:
    """The captured step agrees with the CPU's in float64, and its replay with itself."""
    heads, steps = 2 * sizes.seeds, 3
    for products, allowed in (("fp32", 1e-4), ("bf16", 5e-2)):
        chosen = recipe(sizes, 32, products)
        exact = recipe(sizes, 32)
        there = stack_of(sizes, chosen, heads, device, torch.float32)
        again = stack_of(sizes, chosen, heads, device, torch.float32)
        here = stack_of(sizes, exact, heads, "cpu", torch.float64)
        step, drawn = graphed(there), StackedMasks(there.seeds, chosen, there.bias)
        twin = graphed(again)
        worst, differ = 0.0, 0
        masks = drawn.draw(0, steps, 32)
        for (x, y), drop in zip(batches(sizes, 32, steps), masks, strict=True):
            given = (x.to(device), y.to(device), drop, True)
            found, repeated = step(*given).cpu(), twin(*given).cpu()
            wanted = here.step(x, y, drop.cpu().double(), True)
            for name in ("mean_loss", "value", "gradient_norm"):
                own, theirs = (record[FIELDS.index(name)] for record in (found, wanted))
                off = ((own - theirs).abs() / theirs.abs()).nan_to_num(nan=torch.inf)
                worst = max(worst, float(off.max()))
            differ += int((found != repeated).sum())  # NaN too
        name = f"largest relative difference of {steps} steps from float64, {products}"
        yield Finding(name, worst, "", f"<= {allowed:g}", worst <= allowed)
        yield Finding(
            f"values that differ in a second run, {products}", differ, "", "0", not differ
        )


def check_rate(device: str, sizes: Sizes, limits: Limits) -> Iterator[Finding]:
    """Head-samples per second of a stack, and the share of what the device allows."""
    for batch, products, published in (
        (32, "fp32", False),
        (32, "fp32", True),
        (32, "bf16", False),
        (256, "bf16", False),
    ):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        chosen = recipe(sizes, batch, products)
        taken = _step_seconds(device, sizes, chosen, published)
        kind = f"batch {batch}, {products}{', published search' if published else ''}"
        rate = sizes.heads * batch / taken
        yield Finding(f"training of {sizes.heads} heads, {kind}", rate, "head-samples/s")
        if published:
            continue
        cost = step_cost(chosen, sizes.heads, sizes.seeds, INPUTS)
        share = limits.share(taken, cost.flop, cost.bytes, products)
        yield Finding(f"share of the roofline, {kind}", share, "")
        memory = torch.cuda.max_memory_allocated() / 1e9
        yield Finding(f"memory, {kind}", memory, "GB", "<= 16", memory <= 16)


def _step_seconds(device: str, sizes: Sizes, chosen: Any, published: bool) -> float:
    """Seconds of a step, with its share of the drawing of masks."""
    stack = stack_of(sizes, chosen, sizes.heads, device, torch.float32, published)
    step, masks = graphed(stack), StackedMasks(stack.seeds, chosen, stack.bias)
    x, y = (value.to(device) for value in next(batches(sizes, chosen.batch, 1)))
    for drop in masks.of_steps(0, [chosen.batch] * 2):
        step(x, y, drop, False)
    wait(device)
    started = time.perf_counter()
    for drop in masks.of_steps(2, [chosen.batch] * sizes.steps):
        step(x, y, drop, False)
    wait(device)
    return (time.perf_counter() - started) / sizes.steps


def check_embedding(device: str, sizes: Sizes, limits: Limits) -> Iterator[Finding]:
    """Features of random weights on the GPU compared with the CPU's, and crops per second."""
    registry = import_module("clipaffect.encoders.registry")
    encoder_section = import_module("clipaffect.config.encoders").Encoder
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (sizes.crops, 14, 14, 3), np.uint8)
    crops = [np.kron(one, np.ones((8, 8, 1), np.uint8)) for one in coarse]
    base = encoder_section(model=sizes.model, random=0, activation="quickgelu", precision="fp32")
    reference = registry.load_encoder(base, Path(), "cpu")
    expected = reference.embed(reference.gather(crops, len(crops)))
    del reference
    for precision, allowed in (("fp32", 1e-4), ("fp16", 1e-2), ("bf16", 5e-2)):
        settings = base.model_copy(update={"precision": precision})
        encoder = registry.load_encoder(settings, Path(), device)
        found = encoder.embed(encoder.gather(crops, len(crops))).cpu()[: len(crops)]
        off = float((found - expected).norm() / expected.norm())
        name = f"relative difference of features from the CPU's, {precision}"
        yield Finding(name, off, "", f"<= {allowed:g}", off <= allowed)
        many = [crops[k % len(crops)] for k in range(encoder.batch)]
        ready = encoder.gather(many, encoder.batch)
        taken = seconds(device, lambda e=encoder, r=ready: e.embed(r), 8) / encoder.batch  # type: ignore[misc]
        yield Finding(f"{sizes.model}, {precision}, batch {encoder.batch}", 1 / taken, "crops/s")
        share = limits.share(taken, registry.encoder_cost(settings).flop, 0.0, precision)
        yield Finding(f"share of the matrix peak, {precision}", share, "")
        del encoder, ready


def check_two_jobs(device: str, sizes: Sizes, limits: Limits) -> Iterator[Finding]:
    """Two jobs that see one GPU use it one after the other."""
    text = (
        "import time\nfrom clipaffect.core.gpu import one_device\n"
        "with one_device(True):\n    a = time.time(); time.sleep(2); print(a, time.time())"
    )
    jobs = [_child(text) for _ in range(2)]
    spans = sorted(tuple(map(float, _said(job).split())) for job in jobs)
    apart = len(spans) == 2 and all(len(span) == 2 for span in spans) and spans[1][0] >= spans[0][1]
    yield Finding("two jobs on one GPU at the same time", float(not apart), "", "0", apart)


def check_memory_error(device: str, sizes: Sizes, limits: Limits) -> Iterator[Finding]:
    """Too little memory ends in a message that says what to do."""
    text = (
        "import torch\nfrom clipaffect.core.errors import UserError\n"
        "from clipaffect.core.gpu import one_device\n"
        "torch.cuda.set_per_process_memory_fraction(0.01)\n"
        "try:\n    with one_device(True) as device:\n"
        "        torch.empty(2**36, device=device)\n"
        "except UserError as error:\n    print(error.what)"
    )
    said = _said(_child(text))
    told = "the memory of the GPU is too small" in said
    yield Finding("out of memory without its message", float(not told), "", "0", told)


def _child(text: str) -> subprocess.Popen[str]:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    source = str(Path(__file__).parents[2])
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": first, "PYTHONPATH": source}
    return subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _said(child: subprocess.Popen[str]) -> str:
    """What a child printed; nothing if it waits for a GPU that another program has."""
    try:
        return child.communicate(timeout=LONGEST)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        return ""


Check = Callable[[str, Sizes, Limits], Iterator[Finding]]
# What each needs besides torch and numpy.
CHECKS: dict[str, tuple[tuple[str, ...], Check]] = {
    "resizing": ((), check_resizing),
    "masks": ((), check_masks),
    "step": ((), check_step),
    "rate": ((), check_rate),
    "embedding": (NETWORK, check_embedding),
    "two jobs": (("filelock",), check_two_jobs),
    "out of memory": (("filelock",), check_memory_error),
}


def run_checks(device: str, sizes: Sizes, names: list[str]) -> tuple[list[Finding], dict[str, Any]]:
    """Run checks by name, print each line as it comes; returns the lines and the figures."""
    findings: list[Finding] = []
    figures: dict[str, Any] = {"skipped": {}, "failed": {}}
    with full_float32():
        limits = Limits(device, sizes)
        for name, rate in limits.flop.items():
            figures[f"peak {name}"] = rate
            print(f"matrix peak, {name}: {rate / 1e12:,.1f} TFLOP/s")
        figures["bytes per second"] = limits.bytes
        print(f"memory: {limits.bytes / 1e12:,.2f} TB/s")
        for name in names:
            needs, check = CHECKS[name]
            missing = [package for package in needs if find_spec(package) is None]
            if missing:
                figures["skipped"][name] = missing
                print(f"{name}: skipped, not installed: {', '.join(missing)}")
                continue
            started = time.perf_counter()
            try:
                for found in check(device, sizes, limits):
                    findings.append(found)
                    figures[found.name] = found.value
                    print(_line(found))
            except Exception as error:  # the other checks still run
                figures["failed"][name] = f"{type(error).__name__}: {error}"
                print(f"{name}: FAILED, {type(error).__name__}: {error}")
            print(f"  ({name}: {time.perf_counter() - started:.0f} s)", flush=True)
    return findings, figures


def _line(found: Finding) -> str:
    value = f"{found.value:,.0f}" if found.value >= 1000 else f"{found.value:.3g}"
    mark = "" if found.holds is None else ("ok" if found.holds else "BROKEN")
    limit = f" (promised: {found.limit})" if found.limit else ""
    return f"{mark:6} {found.name}: {value} {found.unit}{limit}"


def gpu_check(arguments: list[str]) -> int:
    """The command; returns the exit status.

    Args:
        arguments: names of checks to run; all by default.
    """
    unknown = [name for name in arguments if name not in CHECKS]
    if unknown:
        print(f"unknown check: {', '.join(unknown)}; known: {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        cause, fix = why_not()
        print(f"torch cannot use a GPU: {cause}\nfix: {fix}", file=sys.stderr)
        return 2
    if not is_supported(0):
        print("torch was built without code for this GPU", file=sys.stderr)
        return 2
    card = torch.cuda.get_device_properties(0)
    facts = {
        "gpu": card.name,
        "memory GB": card.total_memory / 1e9,
        "capability": f"{card.major}.{card.minor}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    print(", ".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    findings, figures = run_checks("cuda:0", Sizes(), arguments or list(CHECKS))
    print(json.dumps(facts | figures))
    broken = [found.name for found in findings if found.holds is False]
    return int(bool(broken or figures["failed"]))
