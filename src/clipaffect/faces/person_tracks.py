"""Who is who: give each annotated person of a video their tracks."""

from __future__ import annotations

import numpy as np

EVERYBODY = "*"  # in a manifest: no annotated person, but every face, by track


def person_of(track: int) -> str:
    """What somebody is called who is known by a track alone: tracks count from 0, people from 1."""
    return str(track + 1)


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
