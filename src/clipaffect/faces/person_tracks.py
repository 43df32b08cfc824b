"""Assign tracks to the annotated people of a video."""

from __future__ import annotations

import numpy as np

EVERYBODY = "*"  # in a manifest: no annotated person, but every face, by track


def person_of(track: int) -> str:
    """The name of a person known only by a track: tracks count from 0, people from 1."""
    return str(track + 1)


def assign_persons(
    frame: np.ndarray, track: np.ndarray, box: np.ndarray, persons: list[str], width: float
) -> dict[str, np.ndarray]:
    """Which detections (n,) belong to each annotated person.

    The rule: the tracks with the largest total area are the annotated people. A single person
    annotated without a side is the largest track. Of two people, the one further left in the image
    is ``left``; a person never seen together with another is assigned by the half of the image. If
    only one side is annotated, the person without a side is the other one. A person's later tracks
    (after an absence) are the nearest ones that do not overlap in time. All other faces are
    bystanders.

    Args:
        frame: (n,) frame numbers.
        track: (n,) track numbers.
        box: (n, 4) left, top, width, height.
        persons: the annotated ones of '', 'left', 'right'.
        width: of the image.
    """
    if not len(frame):
        return {person: np.zeros(0, bool) for person in persons}
    tracks = _Tracks(frame, track, box)
    groups = tracks.first_of_each(persons, width)
    tracks.extend(groups)
    if "" in persons and "" not in groups:
        if {"left", "right"} <= set(persons):
            groups[""] = next(own for own in groups.values() if tracks.by_area[0] in own)
        else:
            groups[""] = groups["right" if "left" in persons else "left"]
    return {person: np.isin(track, groups[person]) for person in persons}


class _Tracks:
    """What the tracks of a video are compared by.

    Attributes:
        by_area: track numbers, the largest summed area first.
        times: the frames of each.
        middle: mean horizontal position of each.
    """

    def __init__(self, frame: np.ndarray, track: np.ndarray, box: np.ndarray) -> None:
        numbers = np.unique(track).tolist()
        area = {n: float(box[track == n, 2:].prod(1).sum()) for n in numbers}
        self.by_area = sorted(numbers, key=lambda n: (-area[n], n))
        self.times = {n: set(frame[track == n].tolist()) for n in numbers}
        centre = box[:, 0] + box[:, 2] / 2
        self.middle = {n: float(centre[track == n].mean()) for n in numbers}

    def first_of_each(self, persons: list[str], width: float) -> dict[str, list[int]]:
        """The track that starts each person: of one alone '', else of ``left`` and ``right``."""
        first = self.by_area[0]
        if persons == [""]:
            return {"": [first]}
        together = [n for n in self.by_area[1:] if self.times[n] & self.times[first]][:1]
        if together:
            left, right = sorted([first, *together], key=lambda n: self.middle[n])
            return {"left": [left], "right": [right]}
        on_the_left = self.middle[first] < width / 2
        return {"left": [first], "right": []} if on_the_left else {"left": [], "right": [first]}

    def extend(self, groups: dict[str, list[int]]) -> None:
        """Give each later track to the nearest person who is not in the picture meanwhile."""
        busy = {name: set().union(*(self.times[n] for n in own)) for name, own in groups.items()}
        taken = {number for own in groups.values() for number in own}
        for number in self.by_area:
            if number in taken:
                continue
            times = self.times[number]
            free = [name for name, own in groups.items() if own and not busy[name] & times]
            if free:
                name = min(
                    free, key=lambda name: abs(self.middle[groups[name][0]] - self.middle[number])
                )
                groups[name].append(number)
                busy[name] |= times
