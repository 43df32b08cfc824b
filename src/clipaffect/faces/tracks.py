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
    frame: np.ndarray, track: np.ndarray, box: np.ndarray, persons: list[str], width: float
) -> dict[str, np.ndarray]:
    """Which detections (n,) belong to each annotated person.

    The rule: the tracks with the largest summed area are the persons. A person annotated without
    a side, alone, is the largest track. Of two people the one further left in the picture is
    ``left``; one who is never seen together with another is told by the half of the picture.
    Beside one annotated side, the person without a side is the other one. A person's later
    tracks (after an absence) are the nearest ones that do not overlap in time; all other faces
    are bystanders.

    Args:
        frame: (n,) frame numbers.
        track: (n,) track numbers.
        box: (n, 4) left, top, width, height.
        persons: the annotated ones of '', 'left', 'right'.
        width: of the picture.
    """
    if not len(frame):
        return {person: np.zeros(0, bool) for person in persons}
    numbers = np.unique(track).tolist()
    area = {n: float(box[track == n, 2:].prod(1).sum()) for n in numbers}
    times = {n: set(frame[track == n].tolist()) for n in numbers}
    middle = {n: float((box[track == n, 0] + box[track == n, 2] / 2).mean()) for n in numbers}
    by_area = sorted(numbers, key=lambda n: (-area[n], n))
    first = by_area[0]
    groups: dict[str, list[int]]
    if persons == [""]:
        groups = {"": [first]}
    else:
        beside = [n for n in by_area[1:] if times[n] & times[first]][:1]
        groups = {"left": [], "right": []}
        if beside:
            left, right = sorted([first, *beside], key=lambda n: middle[n])
            groups = {"left": [left], "right": [right]}
        else:
            groups["left" if middle[first] < width / 2 else "right"].append(first)
    busy = {name: set().union(*(times[n] for n in group)) for name, group in groups.items()}
    for number in by_area:
        if any(number in group for group in groups.values()):
            continue
        free = [name for name, group in groups.items() if group and not busy[name] & times[number]]
        if free:
            name = min(free, key=lambda name: abs(middle[groups[name][0]] - middle[number]))
            groups[name].append(number)
            busy[name] |= times[number]
    if "" in persons and "" not in groups:
        if {"left", "right"} <= set(persons):
            groups[""] = next(group for group in groups.values() if first in group)
        else:
            groups[""] = groups["right" if "left" in persons else "left"]
    return {person: np.isin(track, groups[person]) for person in persons}
