"""Stage ``copies``: find recordings that are in two splits, in part or changed, by their features.

A copy that was re-encoded, rescaled, mirrored, cut or shifted has other bytes, but its features
change at the same times. For each pair of recordings in different splits, the features over time
are correlated at every shift (cross-correlation by FFT). Features are whitened, and each
recording's mean is removed: what two people, or two recordings of one person, have in common at all
times does not count. What chance gives is measured on the same recordings, one of each pair played
backwards. Recordings of fewer than ``SHORTEST`` moments are compared by their crops: see
``image_copies``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy import fft

from clipaffect.config.data import NearCopies
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import KEYS
from clipaffect.core.layout import Table
from clipaffect.core.parquet import read_arrow, write_table
from clipaffect.core.progress import Progress
from clipaffect.features.build_table import table_features
from clipaffect.features.image_copies import image_copies

DIMENSIONS = 32  # of the whitened features
FITTED = 20_000  # rows, evenly spread, that the whitening is fitted on
LENGTH = 500  # moments of a recording of median length: longer ones are averaged over frames
SHORTEST = 16  # moments
OVERLAP = 0.5  # of the shorter recording
# A pair is a copy if its strength (correlation times the root of the moments that overlap) is this
# many deviations above that of pairs of which one runs backwards. docs/data.md has the recall.
DEVIATIONS = 7.0
MARGIN = 1.1  # and this many times as high as the highest of them
MOST_PAIRS = 4_000_000
FEWEST_PAIRS = 30  # to tell what chance gives; with fewer, nothing is called a copy
LONGEST = 50_000  # moments; longer recordings are not compared
MEMORY = 64_000_000  # bytes of transforms at once


@dataclass(frozen=True)
class Copy:
    """Two recordings in different splits that look like copies of each other.

    Attributes:
        split, video, person: the first recording.
        first, last: its frames that the other one has, too.
        other_split, other_video, other_person: the second recording.
        shift: frames by which the second recording is later.
        correlation: of the features, from -1 to 1.
    """

    split: str
    video: str
    person: str
    first: int
    last: int
    other_split: str
    other_video: str
    other_person: str
    shift: int
    correlation: float


@dataclass(frozen=True)
class Recording:
    """The features of one person in one video over time.

    Attributes:
        split, video, person: whose.
        values: (moments, DIMENSIONS) float32, mean removed; 0 where there is no face.
        known: (moments,) float32, 1 where there is a face.
    """

    split: str
    video: str
    person: str
    values: np.ndarray
    known: np.ndarray

    @property
    def room(self) -> int:
        """The power of two that the moments fit into."""
        return 1 << (len(self.known) - 1).bit_length()


class Spectra:
    """Fourier transforms of some recordings, padded to one size.

    Attributes:
        size: moments, padding included; at least as many as two compared recordings have together.
        values: (recordings, frequencies, DIMENSIONS).
        energy, known: (recordings, frequencies) of the values' squared length and of ``known``.
        moments: (recordings,) how many are known.
    """

    def __init__(self, recordings: Sequence[Recording], size: int) -> None:
        self.size = size
        energies = [(own.values**2).sum(axis=1) for own in recordings]
        self.values = np.stack([fft.rfft(own.values, size, axis=0) for own in recordings])
        self.energy = np.stack([fft.rfft(own, size) for own in energies])
        self.known = np.stack([fft.rfft(own.known, size) for own in recordings])
        self.moments = np.array([own.known.sum() for own in recordings])

    def reversed(self) -> Spectra:
        """The same recordings backwards in time, up to a shift."""
        found = copy(self)
        found.values, found.energy = self.values.conj(), self.energy.conj()
        found.known = self.known.conj()
        return found


def best_shifts(one: Spectra, others: Spectra) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shift at which one recording correlates best with each of some others.

    Args:
        one: of a single recording.
        others: of the same size.

    Returns:
        The correlations, the numbers of moments that overlap, and the shifts in moments.
    """
    size = one.size

    def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found: np.ndarray = fft.irfft(a.conj() * b, size)
        return found

    # At each frequency, the product over dimensions is one matrix product.
    products = fft.irfft(np.einsum("fd,kfd->kf", one.values[0].conj(), others.values), size)
    overlap = correlate(one.known, others.known).round()
    energy = correlate(one.energy, others.known) * correlate(one.known, others.energy)
    shorter = np.minimum(one.moments, others.moments)
    enough = (overlap >= np.maximum(SHORTEST, OVERLAP * shorter)[:, None]) & (energy > 0)
    found = np.where(enough, products / np.sqrt(np.where(enough, energy, 1)), -1)
    at = found.argmax(axis=1)
    rows = np.arange(len(found))
    return found[rows, at], overlap[rows, at], np.where(at < size // 2, at, at - size)


def read_recordings(table: Path) -> tuple[list[Recording], pd.DataFrame, int]:
    """The recordings of a table, the rows of those that are too short, and frames in a moment.

    Recordings of more than ``LONGEST`` moments are left out.
    """
    found = read_arrow(Table(table).rows, ["split", *KEYS, "feature_row"])
    found = found.filter(pc.greater_equal(found["feature_row"], 0))
    rows = found.to_pandas().astype({"split": str, "video": str, "person": str})
    features = table_features(table)
    if len(rows) < SHORTEST:
        return [], rows, 1
    keys = ["split", "video", "person"]
    frames = rows.groupby(keys)["frame"]
    spans = frames.max() - frames.min() + 1
    step = max(1, round(float(spans.median()) / LENGTH))
    some = features[np.linspace(0, len(features) - 1, min(FITTED, len(features))).astype(int)]
    some = some.astype(np.float32)
    mean = some.mean(axis=0)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(some - mean, rowvar=False)))
    variances, axes = variances[::-1][:DIMENSIONS], axes[:, ::-1][:, :DIMENSIONS]
    used = variances > 1e-6 * variances[0]
    whiten = (axes[:, used] / np.sqrt(variances[used])).astype(np.float32)
    # Single images are no recordings: there may be hundreds of thousands.
    is_short = frames.transform("size") < SHORTEST
    recordings, short = [], [rows.index[is_short]]
    for (split, video, person), own in rows[~is_short].groupby(keys, sort=True):
        moment = (own["frame"].to_numpy() - 1) // step
        start, size = int(moment.min()), int(moment.max() - moment.min()) + 1
        if start + size > LONGEST:
            continue
        counts = np.bincount(moment - start, minlength=size)
        if (counts > 0).sum() < SHORTEST:
            short.append(own.index)
            continue
        values = np.zeros((size, whiten.shape[1]), np.float32)
        white = (features[own["feature_row"].to_numpy()].astype(np.float32) - mean) @ whiten
        np.add.at(values, moment - start, white)
        known = counts > 0
        own_values = values[known] / counts[known, None]
        own_values -= own_values.mean(axis=0)
        # One moment that is unlike all others must not decide.
        norms = np.linalg.norm(own_values, axis=1, keepdims=True)
        values[known] = own_values * np.minimum(1, np.median(norms) / np.maximum(norms, 1e-9))
        # Moments before the first face are kept, so that a shift counts from the video's start.
        values = np.pad(values, ((start, 0), (0, 0)))
        known = np.pad(known, (start, 0)).astype(np.float32)
        recordings.append(Recording(str(split), str(video), str(person), values, known))
    return recordings, rows.loc[np.concatenate(short)], step


def find_copies(tables: list[Path], faces: list[Path], mode: NearCopies, outs: list[Path]) -> None:
    """Write the copies across the splits of each table; see ``Copy``.

    Args:
        tables: of the tasks. Tables with the same recordings in the same splits are searched once.
        faces: the shards with the crops; without them, short recordings are not compared.
        mode: whether copies are reported, refused, or not looked for.
        outs: a Parquet file for each table.

    Raises:
        UserError: there are copies, and ``mode`` is ``refuse``.
    """
    searched: dict[tuple[object, ...], list[Copy]] = {}
    for table, out in zip(tables, outs, strict=True):
        found: list[Copy] = []
        if mode != "off":
            recordings, short, step = read_recordings(table)
            key = (
                pd.util.hash_pandas_object(short, index=False).to_numpy().tobytes(),
                *((r.split, r.video, r.person, r.values.tobytes()) for r in recordings),
            )
            if key not in searched:
                searched[key] = _search(recordings, step) + _search_short(short, faces)
            found = searched[key]
        if found and mode == "refuse":
            raise UserError(
                f"{len(found)} recordings are in two splits: "
                f"{'; '.join(copy_in_words(asdict(pair)) for pair in found[:3])}",
                where="data.near_copies: refuse",
                fix="remove one of each pair, or give both the same person in data.people; "
                "data.near_copies: report scores them and says so",
            )
        rows = [asdict(pair) for pair in found]
        write_table(out, pd.DataFrame(rows, columns=SCHEMA.names), SCHEMA)


def _search(recordings: list[Recording], step: int) -> list[Copy]:
    by_split: dict[str, list[Recording]] = defaultdict(list)
    for own in recordings:
        by_split[own.split].append(own)
    # "validation" after "train": the first recording is the one that is scored.
    sides = list(combinations(sorted(by_split, reverse=True), 2))
    pairs = sum(len(by_split[a]) * len(by_split[b]) for a, b in sides)
    if pairs > MOST_PAIRS:
        raise UserError(
            f"{pairs:,} pairs of recordings are too many to search for copies",
            where="data.near_copies",
            fix="set data.near_copies: off",
        )
    compared, chance = [], []
    with Progress("pairs of recordings", pairs) as progress:
        for a, b in sides:
            for ones, others, size in _alike_in_length(by_split[a], by_split[b]):
                spectra = Spectra(others, size)
                for one in ones:
                    this = Spectra([one], size)
                    found = best_shifts(this, spectra)
                    compared.append((one, others, *found))
                    chance.append(_strength(*best_shifts(this.reversed(), spectra)[:2]))
                    progress.advance(len(others))
    limit = _limit(np.concatenate(chance)) if chance else np.inf
    return [
        _copy(one, others[k], float(correlations[k]), int(shifts[k]), step)
        for one, others, correlations, overlaps, shifts in compared
        for k in np.flatnonzero(_strength(correlations, overlaps) > limit).tolist()
    ]


def _search_short(rows: pd.DataFrame, faces: list[Path]) -> list[Copy]:
    """The copies among recordings that are too short to correlate over time."""
    pairs = image_copies(rows, faces)
    one, other = (rows.iloc[pairs[column].astype(int)] for column in ("row", "other"))
    pairs = pairs.assign(first=one["frame"].to_numpy(), other_frame=other["frame"].to_numpy())
    names = {}
    for prefix, own in (("", one), ("other_", other)):
        for column in ("split", "video", "person"):
            names[f"{prefix}{column}"] = own[column].to_numpy()
    found = []
    for key, own in pairs.assign(**names).groupby(list(names), sort=True):
        split, video, person, other_split, other_video, other_person = key
        found.append(
            Copy(
                split,
                video,
                person,
                int(own["first"].min()),
                int(own["first"].max()),
                other_split,
                other_video,
                other_person,
                int((own["other_frame"] - own["first"]).median()),
                round(float(own["correlation"].mean()), 4),
            )
        )
    return found


def _strength(correlations: np.ndarray, overlaps: np.ndarray) -> np.ndarray:
    """How much a correlation is worth; -inf where no shift leaves enough moments in both."""
    enough = correlations > -1
    return np.where(enough, correlations * np.sqrt(np.maximum(overlaps, 0)), -np.inf)


def _limit(chance: np.ndarray) -> float:
    """The strength above which a pair is a copy, from that of pairs that cannot be copies."""
    chance = chance[np.isfinite(chance)]
    if len(chance) < FEWEST_PAIRS:
        return np.inf
    middle = np.median(chance)
    deviation = 1.4826 * np.median(np.abs(chance - middle))  # of a normal distribution
    return float(max(middle + DEVIATIONS * deviation, MARGIN * chance.max()))


def _alike_in_length(
    ones: list[Recording], others: list[Recording]
) -> Iterator[tuple[list[Recording], list[Recording], int]]:
    """Recordings to compare with each other, of similar length, and the size that both fit into."""
    for room, other_room in product(*(sorted({r.room for r in own}) for own in (ones, others))):
        size = 2 * max(room, other_room)
        together = max(1, MEMORY // (8 * DIMENSIONS * size // 2))
        own = [r for r in ones if r.room == room]
        theirs = [r for r in others if r.room == other_room]
        for start in range(0, len(theirs), together):
            yield own, theirs[start : start + together], size


def _copy(one: Recording, other: Recording, correlation: float, shift: int, step: int) -> Copy:
    """Describe a pair; moment m of the first recording is m + shift of the second."""
    moments = np.flatnonzero(one.known)
    theirs = moments + shift
    inside = (theirs >= 0) & (theirs < len(other.known))
    shared = moments[inside][other.known[theirs[inside]] > 0]
    return Copy(
        one.split,
        one.video,
        one.person,
        int(shared.min()) * step + 1,
        (int(shared.max()) + 1) * step,
        other.split,
        other.video,
        other.person,
        shift * step,
        round(correlation, 4),
    )


SCHEMA = pa.schema(
    [
        (name, {"int": pa.int32(), "float": pa.float32()}.get(str(own.type), pa.string()))
        for name, own in Copy.__dataclass_fields__.items()
    ]
)


def copy_in_words(row: dict[str, object]) -> str:
    """One copy, for a reader."""
    first, second = (
        f"{video}{' ' if person else ''}{person}"
        for video, person in (
            (row["video"], row["person"]),
            (row["other_video"], row["other_person"]),
        )
    )
    several = row["first"] != row["last"]
    frames = f"frames {row['first']} to {row['last']}" if several else f"frame {row['first']}"
    shift = f", shifted by {row['shift']}" if row["shift"] else ""
    return f"{frames} of {first} ({row['split']}) and {second} ({row['other_split']}{shift})"
