"""Groups that a split must keep together: one person in two videos, two people in one video."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def group_names(sources: Sequence[str], people: Sequence[str]) -> list[str]:
    """The name of the group (n,) that each pair of a source and a person belongs to.

    Groups are the connected parts of the graph of sources and people. Each is called by its first
    person, or by its source if nobody is named.

    Args:
        sources: (n,) names of videos, images or groups.
        people: (n,) who is in them; '' if unknown.
    """
    source, first = pd.factorize(np.array(sources, object))
    named = np.array(people, object)
    known = np.flatnonzero(named != "")
    person, second = pd.factorize(named[known])
    size = len(first) + len(second)
    edges = coo_array(
        (np.ones(len(known)), (source[known], len(first) + person)), shape=(size, size)
    )
    _, part = connected_components(edges, directed=False)
    names: dict[int, str] = {}
    for number, name in zip(part[len(first) :].tolist(), second, strict=True):
        names.setdefault(number, str(name))
    taken = set(names.values())
    for number, name in zip(part[: len(first)].tolist(), first, strict=True):
        # A video may be called like a person who is not in it.
        names.setdefault(number, f"{name} (unnamed)" if name in taken else str(name))
    return [names[number] for number in part[source].tolist()]


def people_in(places: Iterable[str], people: Iterable[str]) -> dict[str, set[str]]:
    """The people in each group, video or image; '' names nobody."""
    found: dict[str, set[str]] = defaultdict(set)
    for place, person in zip(places, people, strict=True):
        if person:
            found[place].add(person)
    return dict(found)


def joins_people(groups: Iterable[str], people: Iterable[str]) -> bool:
    """Whether a group has more than one person."""
    return any(len(own) > 1 for own in people_in(groups, people).values())
