"""How a stored picture is shown: deinterlaced, in SDR, with square pixels, upright.

The steps, as a chain of FFmpeg's filters; each is left out where the file does not ask for it:

    bwdif=mode=send_frame:parity=auto:deint=interlaced
    scale=out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:intent=perceptual
    scale=w=WIDTH:h=ih:flags=bicubic, format=rgb24
    transpose, hflip, vflip

The second step maps the tones of HDR (PQ and HLG) to SDR, with the perceptual intent of FFmpeg's
libswscale. WIDTH is the stored width times the sample aspect ratio. Colour matrix and range are
those that the frame states; without a statement, FFmpeg's defaults apply (BT.601, limited range).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideData, Type
from av.video.reformatter import VideoReformatter

HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics (ITU-T H.273, table 3)
DEINTERLACE = ("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
TO_SDR = (
    "scale",
    "out_transfer=bt709:out_primaries=bt709:out_color_matrix=bt709:intent=perceptual",
)
# Formats that PyAV converts like the filter, to the bit, and faster.
PLAIN = frozenset("yuv420p yuv422p yuv444p yuvj420p yuvj422p yuvj444p rgb24".split())  # noqa: SIM905
# Ratios outside are mistakes of a muxer.
ASPECTS = (Fraction(1, 10), Fraction(10))


class FilterChain:
    """A chain of FFmpeg's filters, built again when the frames change their size or format."""

    def __init__(self, *filters: tuple[str, str]) -> None:
        self.filters = filters
        self.graph: Graph | None = None
        self.made_for: tuple[object, ...] = ()

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Put a frame in; the frames that come out, which may be later ones' predecessors."""
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self.graph is None or kind != self.made_for:
            yield from self.rest()
            self.graph, self.made_for = self._made(frame), kind
        self.graph.push(frame)
        yield from _ready(self.graph)

    def rest(self) -> Iterator[av.VideoFrame]:
        """The frames that are still inside, at the end."""
        if self.graph is not None:
            self.graph.push(None)
            yield from _ready(self.graph)
            self.graph, self.made_for = None, ()

    def _made(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        base = frame.time_base or Fraction(1, 1000)
        last = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=base
        )
        for name, options in (*self.filters, ("buffersink", "")):
            following = graph.add(name, options)
            last.link_to(following)
            last = following
        graph.configure()
        return graph


def _ready(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield cast(av.VideoFrame, graph.pull())
        except (av.error.BlockingIOError, av.error.EOFError):
            return


class Display:
    """Shows the frames of one stream.

    Args:
        aspect: the sample aspect ratio, None where the file states none.
    """

    def __init__(self, aspect: Fraction | None = None) -> None:
        self.stated = aspect
        stated = aspect is not None and ASPECTS[0] <= aspect <= ASPECTS[1]
        self.aspect = aspect if stated and aspect is not None else Fraction(1)
        self.chains: dict[tuple[bool, int], FilterChain] = {}
        self.plain = VideoReformatter()  # one for all frames: each has threads of its own

    def size(self, frame: av.VideoFrame, matrix: np.ndarray | None) -> tuple[int, int]:
        """Width and height of the frame as shown."""
        width = self._width(frame)
        return (frame.height, width) if _is_transposed(matrix) else (width, frame.height)

    def pixels(self, frame: av.VideoFrame, matrix: np.ndarray | None) -> np.ndarray:
        """(height, width, 3) uint8 RGB of the frame as shown."""
        width = self._width(frame)
        is_hdr, is_even = int(frame.color_trc) in HDR, not (frame.width % 2 or frame.height % 2)
        if not is_hdr and width == frame.width and is_even and frame.format.name in PLAIN:
            return oriented(self.plain.reformat(frame, format="rgb24").to_ndarray(), matrix)
        steps = [TO_SDR] if is_hdr else []
        if width != frame.width:
            steps.append(("scale", f"w={width}:h=ih:flags=bicubic"))
        chain = self.chains.setdefault((is_hdr, width), FilterChain(*steps, ("format", "rgb24")))
        (shown,) = chain.push(frame)
        return oriented(shown.to_ndarray(), matrix)

    def _width(self, frame: av.VideoFrame) -> int:
        """Pixels in a row once they are square."""
        return max(round(frame.width * self.aspect), 1)


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The linear part (2, 2) of a frame's display matrix: stored (x, y) is shown at (x, y) @ it.

    None without a matrix. Afterwards only Python's collector of cycles frees the frame, so do not
    ask every frame of a video.
    """
    data = cast(SideData | None, frame.side_data.get(Type.DISPLAYMATRIX.name))
    return None if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2]


def _is_transposed(matrix: np.ndarray | None) -> bool:
    """Whether rows are shown as columns: the quarter turn that is nearest decides."""
    if matrix is None:
        return False
    size = np.abs(matrix.astype(np.int64))
    return bool(size[0, 1] + size[1, 0] > size[0, 0] + size[1, 1])


def oriented(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Turn and mirror a picture (H, W, 3) as its display matrix says."""
    if matrix is None or not matrix.any():
        return pixels
    if _is_transposed(matrix):
        pixels = pixels.transpose(1, 0, 2)
        across, down = matrix[1, 0], matrix[0, 1]
    else:
        across, down = matrix[0, 0], matrix[1, 1]
    if across < 0:
        pixels = pixels[:, ::-1]
    if down < 0:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
