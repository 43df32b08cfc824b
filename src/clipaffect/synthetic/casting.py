"""Who is in which clip, for how long, and how often each expression is shown.

The figures are Aff-Wild2's where it has them; docs/demo.md names the source of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipaffect.core.tasks import EXPR
from clipaffect.synthetic.actions import EXPRESSIONS

# Frames of each class in Aff-Wild2's training set.
CLASS_FRAMES = dict(
    zip(
        EXPR.targets,
        (177198, 16573, 10771, 9080, 95463, 78751, 31615, 165866),
        strict=True,
    )
)
# The 298 videos of Aff-Wild last from 0.10 to 14.47 minutes; the extremes of 298 draws lie 2.9
# deviations from the middle, so the logarithm of a length has a deviation of 0.86.
LENGTH_DEVIATION = float(np.log(14.47 / 0.10)) / (2 * 2.9)
SHORTEST, LONGEST = 2.4, 80.0  # seconds
EPISODE = 2.6  # seconds that an expression is shown on average, its onset and offset included
CLEARLY = 0.87  # share of an episode in which its expression is clear enough to be annotated
PAIRS = 30 / 564  # of Aff-Wild2's videos have a second annotated person: 594 folders of crops
BYSTANDERS = 0.10  # share of the other clips with somebody in the background, not annotated
# Shape of the gamma distribution of class weights per person. With 0.5, a person shows few of the
# classes, as in a video of Aff-Wild2.
CONCENTRATION = 0.5


@dataclass(frozen=True)
class Episode:
    """One stretch of a clip: an expression in one of its variants; Neutral has none."""

    expression: str
    variant: int = 0


@dataclass(frozen=True)
class Clip:
    """One video to make.

    Attributes:
        number: in its name; ``split`` is train or validation.
        people: numbers of the annotated people.
        bystander: whether there is an unannotated person in the background.
        episodes: for each of ``people``, in order.
        seed: of the data set.
    """

    number: int
    split: str
    people: tuple[int, ...]
    episodes: tuple[tuple[Episode, ...], ...]
    seconds: float
    bystander: bool
    seed: int

    def rng(self, stream: int, person: int = 0) -> np.random.Generator:
        """The clip's generator for one stream (and one person in it)."""
        return np.random.default_rng((self.seed, self.number, stream, person))


def class_counts(total: int) -> dict[str, int]:
    """``total`` episodes whose frames are in the proportions of ``CLASS_FRAMES``.

    Counts are rounded by largest remainder. Where an expression fades in and out, the frames count
    as neutral; so there are correspondingly fewer neutral episodes.
    """
    shares = np.array(list(CLASS_FRAMES.values())) / sum(CLASS_FRAMES.values()) / CLEARLY
    shares[0] = 1 - shares[1:].sum()
    shares *= total
    counts = np.floor(shares).astype(int)
    for k in np.argsort(counts - shares, kind="stable")[: total - counts.sum()]:
        counts[k] += 1
    return dict(zip(CLASS_FRAMES, counts.tolist(), strict=True))


def deal(slots: list[int], rng: np.random.Generator) -> list[tuple[Episode, ...]]:
    """Assign episodes to people with ``slots`` places each, with the counts of ``class_counts``.

    Rare classes are assigned first. A person's chance is their class weight times their free slots.
    """
    people = len(slots)
    free = np.array(slots)
    hands: list[list[Episode]] = [[] for _ in slots]
    counts = class_counts(int(free.sum()))
    turn = dict.fromkeys(EXPRESSIONS, 0)
    for name in sorted(counts, key=lambda name: CLASS_FRAMES[name]):
        tends = rng.gamma(CONCENTRATION, size=people) + 1e-6
        for _ in range(counts[name]):
            weights = tends * free
            person = int(rng.choice(people, p=weights / weights.sum()))
            free[person] -= 1
            variant = 0
            if name in EXPRESSIONS:
                variant = turn[name] % (len(EXPRESSIONS[name]) + (name == "Other"))
                turn[name] += 1
            hands[person].append(Episode(name, variant))
    return [tuple(hand[k] for k in rng.permutation(len(hand))) for hand in hands]


def cast(
    split: str, people: range, first_clip: int, seconds: float, seed: int, rng: np.random.Generator
) -> list[Clip]:
    """The clips of one split: every person in exactly one, ``seconds`` the mean length.

    Lengths are log-normal, scaled to a mean of ``seconds`` and then clipped.
    """
    together = round(len(people) * PAIRS / (1 + PAIRS))
    sizes = rng.permutation([2] * together + [1] * (len(people) - 2 * together))
    lengths = np.exp(LENGTH_DEVIATION * rng.standard_normal(len(sizes)))
    lengths = np.clip(seconds * lengths / lengths.mean(), SHORTEST, LONGEST)
    slots = [
        max(1, round(lengths[k] / EPISODE)) for k, size in enumerate(sizes) for _ in range(size)
    ]
    hands = iter(deal(slots, rng))
    clips, person = [], people.start
    for k, size in enumerate(sizes.tolist()):
        clips.append(
            Clip(
                number=first_clip + k,
                split=split,
                people=tuple(range(person, person + size)),
                episodes=tuple(next(hands) for _ in range(size)),
                seconds=float(lengths[k]),
                bystander=bool(size == 1 and rng.random() < BYSTANDERS),
                seed=seed,
            )
        )
        person += size
    return clips
