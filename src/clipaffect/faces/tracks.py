"""Who is who: link detections over frames, and give each annotated person their track."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from clipaffect.faces.detector import Face

LOST_AFTER = 15  # frames a track survives without a detection
MIN_OVERLAP = 0.1  # intersection over union below which two boxes are different people


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap (n, m) of boxes (n, 4) and (m, 4), each left, top, width, height."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    area = a[:, 2:].prod(1)[:, None] + b[:, 2:].prod(1)[None]
    return shared / np.maximum(area - shared, 1e-9)


class Tracker:
    """Numbers the faces of successive frames: the same person keeps the same number."""

    def __init__(self) -> None:
        self.boxes: dict[int, np.ndarray] = {}
        self.unseen: dict[int, int] = {}
        self.next = 0

    def update(self, faces: list[Face]) -> list[int]:
        """Track numbers of a frame's faces, by best total overlap with the live tracks."""
        numbers = [-1] * len(faces)
        live = list(self.boxes)
        if live and faces:
            overlap = _iou(
                np.stack([self.boxes[n] for n in live]), np.stack([face.box for face in faces])
            )
            for row, column in zip(*linear_sum_assignment(-overlap), strict=True):
                if overlap[row, column] >= MIN_OVERLAP:
                    numbers[column] = live[row]
        for index, face in enumerate(faces):
            if numbers[index] < 0:
                numbers[index] = self.next
                self.next += 1
            self.boxes[numbers[index]] = face.box
            self.unseen[numbers[index]] = -1
        for number in list(self.boxes):
            self.unseen[number] += 1
            if self.unseen[number] > LOST_AFTER:
                del self.boxes[number], self.unseen[number]
        return numbers


def assign_persons(
    frame: np.ndarray, track: np.ndarray, box: np.ndarray, persons: list[str]
) -> np.ndarray:
    """Person index of each detection, -1 for bystanders.

    The rule: the tracks with the largest summed area are the persons. One person (annotated
    without a side) takes the largest track. Of two, the one further left in the picture is
    ``left``; if only one side is annotated, the other person is a bystander. A person's later
    tracks (after an absence) are the nearest ones that do not overlap in time.

    Args:
        frame: (n,) frame numbers.
        track: (n,) track numbers.
        box: (n, 4) left, top, width, height.
        persons: the annotated ones of '', 'left', 'right', sorted.
    """
    owner = np.full(len(frame), -1)
    if not len(frame):
        return owner
    numbers = np.unique(track)
    area = {n: float(box[track == n, 2:].prod(1).sum()) for n in numbers}
    times = {n: set(frame[track == n].tolist()) for n in numbers}
    middle = {n: float((box[track == n, 0] + box[track == n, 2] / 2).mean()) for n in numbers}
    by_area = sorted(numbers.tolist(), key=lambda n: (-area[n], n))
    if persons == [""]:
        seeds = by_area[:1]
    else:
        first = by_area[0]
        beside = [n for n in by_area[1:] if times[n] & times[first]]
        seeds = sorted([first, *beside[:1]], key=lambda n: middle[n])
        if len(seeds) == 1:  # never both in the picture: the side is told by the frame's half
            half = float((box[:, 0] + box[:, 2]).max()) / 2
            seeds = [first, -1] if middle[first] < half else [-1, first]
    groups: list[list[int]] = [[] if n < 0 else [n] for n in seeds]
    busy = [set().union(*(times[n] for n in group)) for group in groups]
    for number in by_area:
        if any(number in group for group in groups):
            continue
        free = [k for k, group in enumerate(groups) if group and not busy[k] & times[number]]
        if free:
            k = min(free, key=lambda k: abs(middle[groups[k][0]] - middle[number]))
            groups[k].append(number)
            busy[k] |= times[number]
    names = [""] if persons == [""] else ["left", "right"]
    for name, group in zip(names, groups, strict=True):
        if name in persons and group:
            owner[np.isin(track, group)] = persons.index(name)
    return owner
