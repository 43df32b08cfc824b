"""``--overlay``: a copy of the video with boxes, names and bars drawn into it, without sound."""

from __future__ import annotations

import unicodedata
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from PIL import Image, ImageColor, ImageDraw, ImageFont

from clipaffect.bundle.format import Bundle
from clipaffect.core.files import whole_file
from clipaffect.core.video import read_frames
from clipaffect.prediction.timeline import colour_of

CLOCK = 90_000  # ticks of a second, as in MPEG
MOST_BARS = 3  # of the classes with the largest probabilities
Line = tuple[str, float | None, str]  # text, share of the bar, its colour
QUALITY = {"crf": "20", "preset": "veryfast"}


def write_overlay(rows: pd.DataFrame, video: Path, bundle: Bundle, out: Path) -> None:
    """Write an MP4 file (H.264) with the predictions of each frame drawn in.

    Args:
        rows: of ``frames.parquet``.
        video: the file. Frames that cannot be decoded are left out.
        bundle: names the tasks.
        out: the file to write.
    """
    of_frame = {int(str(frame)): own for frame, own in rows.groupby("frame", sort=True)}
    stream: Any = None
    with whole_file(out) as beside, av.open(str(beside), "w", format="mp4") as container:
        last = -1
        for number, frame in enumerate(read_frames(video)):
            if frame.pixels is None:
                continue
            picture = Image.fromarray(_even(frame.pixels))
            own = of_frame.get(frame.number)
            if own is not None:
                draw_predictions(picture, own, bundle)
            if stream is None:
                stream = container.add_stream("libx264", rate=30, options=QUALITY)
                stream.width, stream.height = picture.size
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = Fraction(1, CLOCK)
            elif picture.size != (stream.width, stream.height):
                picture = picture.resize((stream.width, stream.height))
            drawn = av.VideoFrame.from_image(picture)
            time = number / 30 if np.isnan(frame.time) else frame.time
            last = max(round(time * CLOCK), last + 1)  # times must increase
            drawn.pts, drawn.time_base = last, Fraction(1, CLOCK)
            container.mux(stream.encode(drawn))
        if stream is not None:
            container.mux(stream.encode(None))
    if stream is None:  # no frame could be decoded
        out.unlink()


def _even(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) with even sides, which the encoder needs."""
    high, wide = pixels.shape[:2]
    return np.pad(pixels, ((0, high % 2), (0, wide % 2), (0, 0)), mode="edge")


def draw_predictions(picture: Image.Image, rows: pd.DataFrame, bundle: Bundle) -> None:
    """Draw the boxes, names and bars of a frame's rows into its picture."""
    pen = ImageDraw.Draw(picture, "RGBA")
    size = max(picture.height // 40, 10)
    font = ImageFont.load_default(size)
    for row in rows.to_dict("records"):
        if pd.isna(row["person"]) or pd.isna(row["box_left"]):
            continue
        left, top = row["box_left"], row["box_top"]
        right, bottom = left + row["box_width"], top + row["box_height"]
        pen.rectangle((left, top, right, bottom), outline="white", width=max(size // 8, 1))
        lines: list[Line] = [(f"person {int(row['person'])}", None, "#ffffff")]
        for task, model in bundle.tasks.items():
            lines += _lines(task, model.targets, model.multilabel, row)
        # Beside the face where there is room, else inside the picture.
        width = 10 * size
        x = min(right + size / 2, picture.width - width)
        y = max(min(top, picture.height - len(lines) * 1.4 * size), 0)
        pen.rectangle((x, y, x + width, y + len(lines) * 1.4 * size), fill=(0, 0, 0, 140))
        for number, (text, share, colour) in enumerate(lines):
            at = y + number * 1.4 * size
            if share is not None:
                fill = (*ImageColor.getrgb(colour)[:3], 150)
                pen.rectangle((x, at, x + share * width, at + 1.3 * size), fill=fill)
            pen.text((x + size / 4, at), in_ascii(text), fill="white", font=font)


def in_ascii(text: str) -> str:
    """Text without accents: the font that Pillow brings has only the letters of ASCII."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "?"


def _lines(
    task: str, targets: tuple[str, ...], multilabel: bool, row: dict[str, Any]
) -> list[Line]:
    """A task's bars: the likeliest classes, or the labels that are present."""
    values = [row[f"{task}_{target}"] for target in targets]
    if any(map(pd.isna, values)):
        return []
    if multilabel:
        places = [k for k, target in enumerate(targets) if row[f"{task}_{target}_shown"]]
    else:
        places = np.argsort(values)[::-1][:MOST_BARS].tolist()
    return [(f"{targets[k]} {values[k]:.2f}", values[k], colour_of(k)) for k in places]
