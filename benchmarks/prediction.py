"""Cost of `clipaffect predict`: seconds of video per second of wall time, and memory.

    python benchmarks/prediction.py
    python benchmarks/prediction.py --smoke     # some frames, without the references

Takes about 4 minutes on 2 cores. The video is a real clip of 640 x 360 at 25 frames per second,
repeated to two minutes. The time is that of the whole command, including start-up. Two references
run on the same file in the same run: MediaPipe's native FaceMesh (landmarks only; mediapipe
0.10.21, in an environment created by benchmarks/peers.py), and the package fer 22.5.1 (its emotion
network after OpenCV's Haar cascade). The latter runs only if FER_PYTHON names a Python that has it,
with tensorflow-cpu 2.15.1, keras 2.15 and numpy 1.26. Larger encoders have random weights, which
does not affect the cost. Prints a table, and a JSON object as its last line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import psutil
import torch
from peers import mediapipe_rate
from rich.console import Console
from rich.table import Table

from clipaffect.bundle.format import Bundle
from clipaffect.bundle.preprocessing import describe
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.fetch_asset import ensure_asset
from clipaffect.core.hashing import file_digest
from clipaffect.core.tasks import AU, EXPR
from clipaffect.core.tensors import write_tensors
from clipaffect.training.mlp_head import Head

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "assets"
RATE = 25
SMOKE = "--smoke" in sys.argv
SHORT = 4 if SMOKE else 64  # frames of the video that tells what the start takes
# Encoder, dimension, frames of video: whole batches, since a padded one costs as much.
ENCODERS = {
    "tiny": (
        Encoder(model="clipaffect-tiny", asset="tiny-clip", activation="relu", batch=32),
        256,
        8 if SMOKE else 3008,
    ),
}
LARGER = {
    "ViT-B/32": (Encoder(model="ViT-B-32-quickgelu", random=0, activation="quickgelu"), 512, 512),
    "ViT-L/14": (Encoder(model="ViT-L-14-quickgelu", random=0, activation="quickgelu"), 768, 128),
}
if not SMOKE:
    ENCODERS |= LARGER
COMPARED = 8 if SMOKE else 256  # frames of the video for the references and for the peak's growth
FER = """
import json, sys, time, types
for name in ("moviepy", "moviepy.editor"):  # fer imports it to write videos, which nobody asks for
    sys.modules[name] = types.ModuleType(name)
import cv2
from fer import FER
detector = FER()
video = cv2.VideoCapture(sys.argv[1])
frames, started = 0, time.perf_counter()
while frames < 250:
    more, picture = video.read()
    if not more:
        break
    detector.detect_emotions(picture)
    frames += 1
print(json.dumps({"rate": frames / (time.perf_counter() - started)}))
"""


def clip(source: Path, path: Path, frames: int) -> Path:
    """So many frames of the source, over and over, at 25 a second."""
    with av.open(str(source)) as video:
        pictures = [frame.to_ndarray(format="yuv420p") for frame in video.decode(video=0)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(pictures[number % len(pictures)], "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def bundle(folder: Path, encoder: Encoder, inputs: int) -> Path:
    """A model of the published size on an encoder: three seeds for each task."""
    (folder / "heads").mkdir(parents=True)
    tasks = {}
    for task in (EXPR, AU):
        flat: dict[str, torch.Tensor] = {}
        for seed in range(3):
            state = Head(inputs, len(task.targets), 3, inputs, seed).state_dict()
            flat |= {f"e/seed={seed}/{k}": v.contiguous() for k, v in state.items()}
        write_tensors(folder / f"heads/{task.name}.safetensors", flat)
        tasks[task.name] = {
            "targets": task.targets,
            "multilabel": task.multilabel,
            "alpha": 0.5,
            "protocol": "",
            "file": f"heads/{task.name}.safetensors",
            "macro_f1": None,
            "low": None,
            "high": None,
            "after_steps": None,
            "steps": [{"step": "average_seeds", "choice": {}}],
            "heads": [
                {
                    "features": "e",
                    "seeds": [0, 1, 2],
                    "inputs": inputs,
                    "hidden_layers": 3,
                    "width": inputs,
                }
            ],
        }
    (folder / "preprocessing.json").write_text(json.dumps(describe(Faces(), {"e": encoder})))
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    values = {
        "format": "clipaffect-bundle",
        "version": 1,
        "run": "benchmark",
        "licensed": False,
        "faces": Faces().model_dump(mode="json"),
        "encoders": {"e": encoder.model_dump()},
        "features": {"e": ["e"]},
        "tasks": tasks,
        "cautions": [],
        "stages": VERSIONS,
        "packages": {},
        "config": "0" * 64,
        "files": files,
    }
    (folder / "bundle.json").write_text(Bundle.model_validate(values).model_dump_json())
    return folder


def predict(video: Path, model: Path, out: Path) -> tuple[float, float]:
    """Wall seconds and peak resident gigabytes (of all its processes) of the command."""
    command = [
        sys.executable,
        "-m",
        "clipaffect",
        "predict",
        str(video),
        "--model",
        str(model),
        "--out",
        str(out),
        "--assets",
        str(ASSETS),
    ]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        watched = psutil.Process(run.pid)
        while run.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(process.memory_info().rss for process in family))
            except psutil.Error:
                pass
            time.sleep(0.05)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {run.returncode}")
    return time.perf_counter() - started, peak / 1e9


def size_of(folder: Path) -> int:
    """Bytes below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure and print."""
    for name in ("face-networks", "real-clips"):
        ensure_asset(name, ASSETS)
    table = Table(title=f"clipaffect predict, 640 x 360 at {RATE} a second, {os.cpu_count()} cores")
    for name in ("encoder", "seconds a minute of video", "start, s", "peak GB", "kB a frame"):
        table.add_column(name, justify="left" if name == "encoder" else "right")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = ASSETS / "real-clips/laughing.mp4"
        videos = {
            frames: clip(source, folder / f"{frames}.mp4", frames)
            for frames in {SHORT, COMPARED} | {own[2] for own in ENCODERS.values()}
        }
        for key, (encoder, inputs, frames) in ENCODERS.items():
            model = bundle(folder / f"model-{inputs}", encoder, inputs)
            short, _ = predict(videos[SHORT], model, folder / "out-1")
            wall, peak = predict(videos[frames], model, folder / "out")
            rate = (wall - short) / (frames - SHORT)  # seconds a frame
            start = short - SHORT * rate
            disk = size_of(folder / "out") / frames / 1e3
            table.add_row(
                key, f"{60 * RATE * rate:.0f}", f"{start:.0f}", f"{peak:.2f}", f"{disk:.1f}"
            )
            if key == "tiny":
                figures["realtime_factor_tiny"] = frames / RATE / wall
                figures["realtime_factor_tiny_without_start"] = 1 / RATE / rate
                figures["rss_gb_tiny"] = peak
                figures["kb_a_frame"] = disk
                shutil.rmtree(folder / "out")
                _, less = predict(videos[COMPARED], model, folder / "out")
                figures["peak_rss_growth"] = peak / less
            for used in ("out", "out-1"):
                shutil.rmtree(folder / used)
        if not SMOKE:
            native = mediapipe_rate([videos[COMPARED]])["rate"]
            figures["realtime_factor_mediapipe_landmarks"] = native / RATE
            seconds = f"{60 * RATE / native:.0f}"
            table.add_row("MediaPipe's landmarks alone, one core", seconds, "", "", "")
        if "FER_PYTHON" in os.environ:
            done = subprocess.run(
                [os.environ["FER_PYTHON"], "-c", FER, str(videos[COMPARED])],
                check=True,
                capture_output=True,
                text=True,
            )
            fer = json.loads(done.stdout.strip().splitlines()[-1])["rate"]
            figures["realtime_factor_fer"] = fer / RATE
            table.add_row("fer 22.5.1, expressions alone", f"{60 * RATE / fer:.0f}", "", "", "")
    Console().print(table)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
