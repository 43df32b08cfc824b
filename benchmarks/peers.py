"""Timing of other face detectors, each in its own environment, separate from the project's.

An environment is created once under ~/.cache: 0.9 GB for MediaPipe, 5 GB for MTCNN with its torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path.home() / ".cache/clipaffect-benchmarks"
# A peer's program defines `found(pictures)`: in how many of a list of RGB frames it finds a face,
# and `restart()`: before another video. One thread; decoded by OpenCV, no crops cut or packed.
MEDIAPIPE = """
import mediapipe as mp
mesh = mp.solutions.face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1)
restart = mesh.reset
def found(pictures):
    return sum(bool(mesh.process(picture).multi_face_landmarks) for picture in pictures)
"""
MTCNN = """
import torch
from facenet_pytorch import MTCNN
torch.set_num_threads(1)
finder = MTCNN(min_face_size=SMALLEST)
def restart():
    pass
def found(pictures):
    boxes, _, points = finder.detect(pictures, landmarks=True)
    return sum(box is not None for box in boxes)
"""
TIMED = """
import json, sys, time
import cv2
cv2.setNumThreads(1)
frames = seconds = faces = 0
for path in sys.argv[2:]:
    restart()
    video, batch, more = cv2.VideoCapture(path), [], True
    started = time.process_time()
    while more:
        more, picture = video.read()
        if more:
            batch.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
            frames += 1
        if batch and (not more or len(batch) == int(sys.argv[1])):
            faces += found(batch)
            batch = []
    seconds += time.process_time() - started
print(json.dumps({"rate": frames / seconds, "found": faces / frames}))
"""


def peer_rate(
    program: str, packages: list[str], videos: list[Path], batch: int
) -> dict[str, float]:
    """Frames per CPU-second of a peer's program, ``batch`` frames a call, and its share found."""
    folder = ENVIRONMENTS / packages[0].replace("==", "-")
    python, complete = folder / "bin/python", folder / "complete"
    if not complete.is_file():  # a killed installation is made anew
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        complete.touch()
    run = subprocess.run(
        [python, "-c", program + TIMED, str(batch), *videos],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "GLOG_minloglevel": "3"},
    )
    return json.loads(run.stdout.strip().splitlines()[-1])


def mediapipe_rate(videos: list[Path]) -> dict[str, float]:
    """MediaPipe's own native FaceMesh, which follows one face from frame to frame."""
    return peer_rate(MEDIAPIPE, ["mediapipe==0.10.21", "numpy<2"], videos, batch=1)


def mtcnn_rate(videos: list[Path], smallest: int) -> dict[str, float]:
    """MTCNN with its five landmarks, faces from ``smallest`` pixels on, in every frame.

    Eight frames a call were the fastest of 1, 8 and 32.
    """
    packages = ["facenet-pytorch==2.6.0", "opencv-python-headless<5", "numpy<2"]
    return peer_rate(f"SMALLEST = {smallest}" + MTCNN, packages, videos, batch=8)
