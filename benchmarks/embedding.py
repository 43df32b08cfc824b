"""Embedding packed crops to Parquet: images per CPU-second, fraction of the matrix peak, memory.

    python benchmarks/embedding.py
    python benchmarks/embedding.py --smoke      # small numbers: does it run?

Takes about 7 minutes on 2 cores. The reference is the loop in open_clip's documentation, in fp32,
which adds one PIL image after the other to a batch, on the same crops in the same run. Weights are
random; the arithmetic is the same as with real ones. Rates are slopes between two numbers of crops,
so the time to load the network does not count. Prints a table, and a JSON object as its last line.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from clipaffect.config.encoders import Encoder
from clipaffect.core.cpu import take_one_core
from clipaffect.core.parquet import write_batches, write_table
from clipaffect.core.store import Store
from clipaffect.encoders.device_inputs import Groups
from clipaffect.encoders.kinds.open_clip import bare_tower, device_inputs, preparation
from clipaffect.encoders.registry import LoadedEncoder, encoder_cost
from clipaffect.encoders.untrained import create_untrained, open_clip
from clipaffect.faces.crops import encode_crop
from clipaffect.faces.face_rows import SCHEMA
from clipaffect.features.embed_faces import embed_faces
from clipaffect.training.cost import matrix_peak

SMOKE = "--smoke" in sys.argv
LARGE = (
    Encoder(model="clipaffect-micro", random=0, activation="gelu", batch=4)
    if SMOKE
    else Encoder(model="ViT-L-14-quickgelu", random=0, activation="quickgelu", batch=16)
)
TINY = Encoder(model="clipaffect-tiny", asset="tiny-clip", activation="relu", batch=32)
NOWHERE = Path("assets")


def crops(count: int) -> list[bytes]:
    """Different coloured patterns of 224 px as JPEG."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count, 14, 14, 3), np.uint8)
    return [encode_crop(np.kron(one, np.ones((16, 16, 1), np.uint8))) for one in coarse]


def shard(folder: Path, pictures: list[bytes]) -> tuple[Path, Path]:
    """A manifest of one video and its faces."""
    write_table(folder / "manifest.parquet", pd.DataFrame([{"video": "v", "kind": "video"}]))

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(pictures), 512):
            part = pictures[start : start + 512]
            own = {"video": "v", "person": "", "status": "ok"}
            yield pa.Table.from_pylist(
                [own | {"frame": start + k + 1, "crop": crop} for k, crop in enumerate(part)],
                SCHEMA,
            )

    write_batches(folder / "faces.parquet", SCHEMA, tables())
    return folder / "manifest.parquet", folder / "faces.parquet"


def stage_seconds(settings: Encoder, pictures: list[bytes]) -> float:
    """CPU seconds of the whole stage, the loading of the network among them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, faces = shard(folder, pictures)
        started = time.process_time()
        store = Store(folder / "store")
        embed_faces(manifest, faces, settings, NOWHERE, store, folder / "out.parquet")
        return time.process_time() - started


def stage_rate(settings: Encoder, few: int, many: int) -> float:
    """Crops per CPU-second, by the difference of two runs."""
    pictures = crops(many)
    slow, fast = stage_seconds(settings, pictures), stage_seconds(settings, pictures[:few])
    return (many - few) / (slow - fast)


def prepared_rate(cores: int, count: int) -> float:
    """Crops of 112 px per second that the stage prepares for a GPU on some cores.

    The network is a stub: it takes what the host hands to a GPU, and returns zeros.
    """
    settings = LARGE.model_copy(update={"batch": 256, "workers": cores})
    tower = bare_tower(settings)
    inputs = device_inputs(tower, "cpu", torch.bfloat16)

    def embed(groups: Groups) -> torch.Tensor:
        return torch.zeros(sum(len(places) for places, _ in groups), 768)

    def load(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
        return LoadedEncoder(preparation(tower), inputs.gather, embed, 768, 256)

    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (256, 14, 14, 3), np.uint8)
    photos = [
        encode_crop(cv2.resize(own, (112, 112), interpolation=cv2.INTER_CUBIC)) for own in small
    ]
    # A comment in the JPEG makes copies different files.
    pictures = [
        photo[:2] + b"\xff\xfe\x00\x06" + number.to_bytes(4, "big") + photo[2:]
        for number, photo in zip(range(count), itertools.cycle(photos), strict=False)
    ]
    before = os.sched_getaffinity(0)
    rates = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, faces = shard(folder, pictures)
        os.sched_setaffinity(0, sorted(before)[:cores])
        try:
            for repeat in range(3):
                store = Store(folder / f"store{repeat}")
                started = time.perf_counter()
                embed_faces(manifest, faces, settings, NOWHERE, store, folder / "out", load)
                rates.append(count / (time.perf_counter() - started))
        finally:
            os.sched_setaffinity(0, before)
    return statistics.median(rates)


def documented_loop_rate(count: int) -> float:
    """The loop of open_clip's documentation, fp32: crops per CPU-second."""
    pictures = crops(count)
    model = create_untrained(LARGE.model).eval()
    side = 64 if SMOKE else 224
    preprocess = open_clip().image_transform(side, is_train=False)
    with torch.no_grad():
        model.encode_image(torch.zeros(1, 3, side, side))
        started = time.process_time()
        batch = torch.stack([preprocess(Image.open(io.BytesIO(crop))) for crop in pictures])
        model.encode_image(batch).numpy()
        return count / (time.process_time() - started)


def bf16_peak() -> float:
    """The matrix peak now. A shared machine's wanders, most where its cores share a matrix unit."""
    return matrix_peak(torch.bfloat16, torch.mm)


def peak_memory(count: int) -> float:
    """Peak resident gigabytes of a process that embeds ``count`` crops with the tiny encoder."""
    command = [sys.executable, __file__, "--memory-of", str(count), *(["--smoke"] if SMOKE else [])]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.strip().splitlines()[-1])


def memory_of(count: int) -> None:
    """What ``peak_memory`` runs: prints the peak in gigabytes."""
    take_one_core()
    stage_seconds(TINY, crops(64) * (count // 64))
    # Not ru_maxrss: a child's begins at what its parent held.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)


def main() -> None:
    """Measure and print."""
    take_one_core()  # as the rule's command does
    products = [bf16_peak()]
    large = stage_rate(LARGE, *((4, 64) if SMOKE else (16, 80)))
    products.append(bf16_peak())
    loop = documented_loop_rate(4 if SMOKE else 16)
    tiny = stage_rate(TINY, *((4, 64) if SMOKE else (256, 1792)))
    products.append(bf16_peak())
    prepared = [prepared_rate(cores, 64 if SMOKE else 20480) for cores in (1, 2)]
    peaks = [peak_memory(count) for count in ((64, 64) if SMOKE else (1024, 20480))]
    figures = {
        "bf16_gemm_share": large * encoder_cost(LARGE).flop / max(products),
        "bf16_peak_gflop_per_s": max(products) / 1e9,
        "vs_open_clip_loop": large / loop,
        "large_images_per_cpu_s": large,
        "tiny_images_per_cpu_s": tiny,
        "prepared_crops_per_core_s": prepared[0],
        "prepared_on_two_cores": prepared[1] / prepared[0],
        "peak_rss_gb": peaks[1],
        "peak_rss_growth": peaks[1] / peaks[0],
    }
    table = Table(title=f"224 px crops to Parquet, {os.cpu_count()} cores, one thread")
    table.add_column("variant")
    table.add_column("crops per CPU-second", justify="right")
    table.add_row("ViT-L/14, bf16, the stage", f"{large:.2f}")
    table.add_row("ViT-L/14, fp32, open_clip's documented loop", f"{loop:.2f}")
    table.add_row("tiny CLIP, bf16, the stage", f"{tiny:.0f}")
    Console().print(table)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        memory_of(int(sys.argv[2]))
    else:
        main()
