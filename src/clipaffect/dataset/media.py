"""Tell videos and images from other files, by suffix or, where that is unknown, by content."""

from __future__ import annotations

import codecs
from pathlib import Path

import av
import cv2

from clipaffect.core.container import open_container, shown_stream
from clipaffect.dataset.manifest import PICTURE, VIDEO

_VIDEOS = """
    .264 .265 .3g2 .3gp .asf .avc .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m2t .m2ts
    .m2v .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .ogm .ogv .qt .ts .vob
    .webm .wmv
"""
VIDEO_SUFFIXES = frozenset(_VIDEOS.split())
_IMAGES = ".avif .bmp .heic .heif .hif .jfif .jpe .jpeg .jpg .png .tif .tiff .webp"
IMAGE_SUFFIXES = frozenset(_IMAGES.split())
AMBIGUOUS = frozenset((".ts", ".mts"))  # videos, or programs in TypeScript
BEGINNING = 4096  # bytes of a file that tell text, pointers and most formats
LFS = b"version https://git-lfs.github.com/spec/"


def suffix_kind(path: Path) -> str | None:
    """``video`` or ``picture`` by the suffix of a name, None for other suffixes."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return PICTURE
    return VIDEO if suffix in VIDEO_SUFFIXES else None


def without_suffix(name: str) -> str:
    """A name without the suffix of a video or an image; other names stay as they are."""
    stem, dot, _ = name.rpartition(".")
    known = suffix_kind(Path(name)) is not None
    return stem if dot and stem and known else name


def media_kind(path: Path) -> str | None:
    """``video`` or ``picture``, by the suffix if it is known, else by the content.

    None for other files, and for those that cannot be read.
    """
    known = suffix_kind(path)
    if known is not None and path.suffix.lower() not in AMBIGUOUS:
        return known
    beginning = first_bytes(path)
    if not beginning:
        return known
    return None if _is_text(beginning) else known or _kind_of_content(path)


def is_pointer(path: Path) -> bool:
    """Whether Git LFS has left a pointer in a file's place."""
    return first_bytes(path).startswith(LFS)


def first_bytes(path: Path) -> bytes:
    """The beginning of a file; empty if it has none or cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(BEGINNING)
    except OSError:
        return b""


def _is_text(beginning: bytes) -> bool:
    is_utf16 = beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return is_utf16 or b"\0" not in beginning


def _kind_of_content(path: Path) -> str | None:
    """The kind of a file whose suffix says nothing."""
    try:
        if cv2.haveImageReader(str(path)):
            return PICTURE
        with open_container(path) as container:
            stream = shown_stream(container)
            has_video = stream is not None and stream.codec_context.width > 0
            # Some random bytes look like a raw stream: only what has a duration is one.
            return VIDEO if has_video and container.duration else None
    except (av.error.FFmpegError, OSError, UnicodeError, cv2.error):
        return None
