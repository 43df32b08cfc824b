"""Video to aligned faces: frames per CPU-second, faces found, and memory.

    python benchmarks/faces.py
    python benchmarks/faces.py --smoke          # some frames, without the references

Takes about 12 minutes on 2 cores. Two references run on the same clips in the same run, both by
`peers.py`: MediaPipe's native graph of the same networks (mediapipe 0.10.21), and MTCNN
(facenet-pytorch 2.6.0, which includes the published weights, with the torch 2.2 that it requires).
Prints a table, and a JSON object as its last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pandas as pd
from peers import mediapipe_rate, mtcnn_rate
from rich.console import Console
from rich.table import Table

from clipaffect.config.faces import Faces
from clipaffect.core.fetch_asset import ensure_asset
from clipaffect.core.hashing import file_digest
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.store import Store
from clipaffect.core.video import read_frames
from clipaffect.dataset.extract_frames import extract_frames
from clipaffect.faces.align_faces import align_faces
from clipaffect.faces.finder import FaceFinder, FaceFollower
from clipaffect.synthetic.crossing import crossing

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "assets"
RIG = ROOT / "resources/demo/head_rig.npz"
CLIPS = ("single_face.mp4", "laughing.mp4")  # 640 x 360, one face
SMOKE = "--smoke" in sys.argv
REPEATS = 1 if SMOKE else 3
LIMIT = 10 if SMOKE else 0  # frames of a video; 0: all
MEMORY_SECONDS = (0.2, 0.4) if SMOKE else (10, 600)
NO_PEER = {"rate": np.nan, "found": np.nan}
DEFAULT = "default: followed, search every 5th frame, with tiles"
TILED = "search in every frame, with tiles"
WHOLE = "search in every frame, whole picture only"
ALIKE = "followed, whole picture only, no crops"
NATIVE = "MediaPipe's native FaceMesh, no crops"
CASCADE = "MTCNN, every frame, faces from 20 px (its default), no crops"
CASCADE_40 = "MTCNN, every frame, faces from 40 px, no crops"


def manifest(folder: Path, videos: list[Path]) -> Path:
    """A shard of videos with one person each."""
    rows = [
        {
            "video": path.stem,
            "kind": "video",
            "path": str(path),
            "sha256": file_digest(path),
            "persons": [""],
            "folders": [""],
            "frame_limit": LIMIT,
        }
        for path in videos
    ]
    write_table(folder / "manifest.parquet", pd.DataFrame(rows))
    return folder / "manifest.parquet"


def stage_rate(videos: list[Path], settings: Faces) -> tuple[float, pd.DataFrame]:
    """Frames per CPU-second of the whole stage, video file to packed crops, and its rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard, store = manifest(folder, videos), Store(folder / "store")
        extract_frames(shard, store, folder / "frames.parquet")
        started = time.process_time()
        align_faces(
            shard, folder / "frames.parquet", settings, ASSETS, store, folder / "faces.parquet"
        )
        seconds = time.process_time() - started
        faces = read_table(folder / "faces.parquet", ["video", "status", "points"])
    return len(faces) / seconds, faces


def finding_rate(finder: FaceFinder, videos: list[Path]) -> float:
    """Frames per CPU-second of what MediaPipe's graph does: decode, follow one face, no crops."""
    frames, started = 0, time.process_time()
    for video in videos:
        follower = FaceFollower(finder)
        for frame in islice(read_frames(video), LIMIT or None):
            follower(np.asarray(frame.pixels))
            frames += 1
    return frames / (time.process_time() - started)


def jitter(faces: pd.DataFrame) -> float:
    """Median second difference of the eye points over the eye distance."""
    values = []
    for _, own in faces[faces["status"] == "ok"].groupby("video"):
        points = np.stack(own["points"]).reshape(-1, 5, 2)[:, :2]
        distance = np.linalg.norm(points[:, 0] - points[:, 1], axis=1).mean()
        step = np.linalg.norm(np.diff(points, n=2, axis=0), axis=2)
        values.extend((step / distance).ravel().tolist())
    return float(np.median(values))


def id_switches(finder: FaceFinder) -> int:
    """Changes of number of two rendered people who cross, and who meet and go back."""
    switches = 0
    for seed in range(1 if SMOKE else 2):
        for back in (False,) if SMOKE else (False, True):
            follower = FaceFollower(finder)
            last: dict[int, int] = {}
            for picture, truth in crossing(RIG, 6 if SMOKE else 70, seed, 2, back=back):
                found = follower(picture)
                if np.hypot(*(truth[0] - truth[1])) < 50 or not found:
                    continue
                eyes = np.array([face.points[:2].mean(0) for _, face in found])
                for person in range(2):
                    away = np.hypot(*(eyes - truth[person]).T)
                    if away.min() < 20:
                        number = found[away.argmin()][0]
                        switches += last.get(person, number) != number
                        last[person] = number
    return switches


def repeat_clip(source: Path, path: Path, seconds: float) -> Path:
    """A 1920 x 1080 file of a real clip, scaled up and repeated."""
    pictures = [f.decoded for f in read_frames(source)][:48]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "30"}
        large = [p.reformat(1920, 1080, "yuv420p").to_ndarray() for p in pictures if p]
        for number in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(large[number % len(large)], "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def peak_memory(video: Path) -> float:
    """Peak resident gigabytes of a process that runs both stages on a video."""
    command = [sys.executable, __file__, "--memory-of", str(video), *(["--smoke"] if SMOKE else [])]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.strip().splitlines()[-1])


def memory_of(video: Path) -> None:
    """What ``peak_memory`` runs: prints the peak in gigabytes."""
    stage_rate([video], Faces(detect_every=25, smallest=0))
    # Not ru_maxrss: a child's begins at what its parent held.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)


def measure_rates(
    videos: list[Path],
) -> tuple[dict[str, list[float]], dict[str, float], pd.DataFrame]:
    """Rates by variant, peers' shares of frames with a face, and the default's faces.

    The two sides of a ratio run one after the other: a shared machine's speed wanders.
    """
    every, whole = Faces(detect_every=1), Faces(detect_every=1, smallest=0)
    alike = FaceFinder(ASSETS, Faces(smallest=0))
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(REPEATS):
        rates[TILED].append(stage_rate(videos, every)[0])
        rates[WHOLE].append(stage_rate(videos, whole)[0])
        rates[ALIKE].append(finding_rate(alike, videos))
        mediapipe = NO_PEER if SMOKE else mediapipe_rate(videos)
        rate, faces = stage_rate(videos, Faces())
        mtcnn = {s: NO_PEER if SMOKE else mtcnn_rate(videos, s) for s in (20, 40)}
        rates[NATIVE].append(mediapipe["rate"])
        rates[DEFAULT].append(rate)
        rates[CASCADE].append(mtcnn[20]["rate"])
        rates[CASCADE_40].append(mtcnn[40]["rate"])
    found = {"mediapipe": mediapipe["found"], "mtcnn": mtcnn[20]["found"]}
    return rates, found, faces


def main() -> None:
    """Measure and print."""
    for name in ("face-networks", "real-clips"):
        ensure_asset(name, ASSETS)
    videos = [ASSETS / "real-clips" / name for name in CLIPS]
    rates, found, faces = measure_rates(videos)
    median = {name: float(np.median(values)) for name, values in rates.items()}

    def ratio(ours: str, theirs: str) -> float:
        return float(np.median(np.divide(rates[ours], rates[theirs])))

    finder = FaceFinder(ASSETS, Faces())
    import cv2

    photo = cv2.cvtColor(cv2.imread(str(videos[0].with_name("group.jpg"))), cv2.COLOR_BGR2RGB)
    with tempfile.TemporaryDirectory() as folder:
        peaks = [
            peak_memory(repeat_clip(videos[0], Path(folder) / f"{seconds}.mp4", seconds))
            for seconds in MEMORY_SECONDS
        ]
    figures = {
        "frames_per_cpu_s": median[WHOLE],
        "frames_per_cpu_s_default": median[DEFAULT],
        "frames_per_cpu_s_every_tiled": median[TILED],
        "vs_mediapipe": ratio(ALIKE, NATIVE),
        "vs_mediapipe_with_tiles_and_crops": ratio(DEFAULT, NATIVE),
        "vs_mtcnn": ratio(ALIKE, CASCADE),
        "vs_mtcnn_with_tiles_and_crops": ratio(DEFAULT, CASCADE),
        "vs_mtcnn_from_40_px_with_tiles_and_crops": ratio(DEFAULT, CASCADE_40),
        "found_share": float((faces["status"] == "ok").mean()),
        "found_share_mediapipe": found["mediapipe"],
        "found_share_mtcnn": found["mtcnn"],
        "jitter_iod": jitter(faces),
        "small_faces_found": len(finder(photo)),
        "id_switches": id_switches(finder),
        "peak_rss_gb": peaks[1],
        "peak_rss_growth": peaks[1] / peaks[0],
    }
    table = Table(title=f"640 x 360 H.264 to packed 224 px crops, {os.cpu_count()} cores")
    table.add_column("variant")
    table.add_column("frames per CPU-second", justify="right")
    for name, rate in median.items():
        table.add_row(name, f"{rate:.0f}")
    Console().print(table)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        memory_of(Path(sys.argv[2]))
    else:
        main()
