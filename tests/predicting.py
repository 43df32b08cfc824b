"""What the tests of prediction share: calls, and files to ask about."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import av
import pandas as pd
from conftest import ASSETS, ROOT, clipaffect

from clipaffect.bundle.load import open_bundle
from clipaffect.prediction.batch import predict_files, wanted_of

VIDEOS = ROOT / "tests/data/clips/videos"


def predict(*words: object, check: bool = True) -> subprocess.CompletedProcess:
    """``clipaffect predict``."""
    done = clipaffect("predict", *words, "--assets", ASSETS)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def answered(bundle: Path, out: Path, *inputs: Path, **asked: Any) -> pd.DataFrame:
    """The same, within this process: its summary."""
    wanted = wanted_of(open_bundle(bundle), ASSETS, **asked)
    return predict_files(list(inputs), wanted, out, None, 1)


def file_of(video: str) -> Path:
    return next(VIDEOS.rglob(f"{video}.mp4"))


def repeat(source: Path, out: Path, frames: int) -> None:
    """An H.264 file of the source's frames over and over, at 160x90."""
    with av.open(str(source)) as video:
        small = [f.reformat(160, 90, "yuv420p").to_ndarray() for f in video.decode(video=0)]
    out.parent.mkdir(exist_ok=True)
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(small[number % len(small)], "yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
