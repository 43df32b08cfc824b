"""Find single images, and recordings of a few frames, that are in two splits, by their crops.

Without a course of time only the picture itself is left. Small grey pictures of the crops are
whitened, and a pair is a copy if its distance is much smaller than that to the ``NEIGHBOUR``-th
nearest picture of the same split (the ratio test of Lowe 2004, section 7.1, whose second neighbour
would be a second copy where there are several). Pictures that merely look alike have many
neighbours at about the same distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from clipaffect.core.frame_status import KEYS
from clipaffect.core.parquet import ROW_GROUP, RowReader, read_table
from clipaffect.core.progress import Progress
from clipaffect.faces.crops import read_crops

SIDE = 24  # pixels of a small picture
DIMENSIONS = 32  # of the whitened pictures
FITTED = 20_000  # pictures that the whitening is fitted on
NEIGHBOUR = 11
RATIO = 0.4  # docs/data.md has the recall


def image_copies(rows: pd.DataFrame, faces: list[Path]) -> pd.DataFrame:
    """The pairs of rows in different splits whose crops are copies, mirrored ones included.

    Args:
        rows: columns split and ``KEYS``; rows with a face.
        faces: the shards with their crops.

    Returns:
        Columns row and other (positions in ``rows``) and correlation (of the small pictures).
    """
    pictures, found = _small_pictures(rows, faces)
    rows = rows.iloc[found]
    splits = rows["split"].to_numpy()
    fewest = min((int((splits == split).sum()) for split in set(splits)), default=0)
    empty = pd.DataFrame(columns=["row", "other", "correlation"])
    if fewest <= NEIGHBOUR or len(set(splits)) < 2:
        return empty
    some = np.linspace(0, len(pictures) - 1, min(FITTED, len(pictures))).astype(int)
    dimensions = min(DIMENSIONS, len(pictures) // 2)
    whiten = PCA(dimensions, whiten=True, svd_solver="randomized", random_state=0)
    whiten.fit(_standardised(pictures[some]))
    white, mirrored = (
        np.concatenate([whiten.transform(_standardised(part)) for part in _parts(own)])
        for own in (pictures, pictures[:, :, ::-1])
    )
    pairs = []
    # "validation" before "train", as find_copies does: the first one is the one that is scored.
    for split, other in combinations(sorted(set(splits), reverse=True), 2):
        ones, others = np.flatnonzero(splits == split), np.flatnonzero(splits == other)
        nearest = NearestNeighbors(n_neighbors=NEIGHBOUR, algorithm="brute")
        nearest.fit(np.concatenate([white[others], mirrored[others]]))
        for part in _parts(ones):
            distances, at = nearest.kneighbors(white[part])
            one, k = np.nonzero(distances <= RATIO * distances[:, -1:])
            theirs = at[one, k]
            turned = theirs >= len(others)
            pair = pd.DataFrame({"row": part[one], "other": others[theirs % len(others)]})
            a, b = (pictures[pair[column].to_numpy()] for column in ("row", "other"))
            b = np.where(turned[:, None, None], b[:, :, ::-1], b)
            pair["correlation"] = (_standardised(a) * _standardised(b)).mean(axis=1)
            pairs.append(pair)
    every = pd.concat(pairs, ignore_index=True) if pairs else empty
    every = every.sort_values("correlation", ascending=False).drop_duplicates(["row", "other"])
    every["row"], every["other"] = found[every["row"]], found[every["other"]]
    return every.sort_values(["row", "other"], ignore_index=True)


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of an array that fit into memory as floats."""
    for start in range(0, len(values), FITTED):
        yield values[start : start + FITTED]


def _standardised(pictures: np.ndarray) -> np.ndarray:
    """(n, SIDE * SIDE) float32 with mean 0 and deviation 1: light and contrast do not count."""
    flat = pictures.reshape(len(pictures), SIDE * SIDE).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-6)


def _small_pictures(rows: pd.DataFrame, faces: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(n, SIDE, SIDE) uint8 grey pictures of the crops, and the positions (n,) of their rows."""
    place = pd.Series(np.arange(len(rows)), pd.MultiIndex.from_frame(rows[KEYS]))
    pictures: list[np.ndarray] = []
    found: list[int] = []
    with Progress("crops", len(rows)) as progress:
        for shard in faces:
            keys = pd.MultiIndex.from_frame(read_table(shard, KEYS))
            at = place.reindex(keys).to_numpy(float)
            wanted = np.flatnonzero(~np.isnan(at))
            reader = RowReader(shard)
            for start in range(0, len(wanted), ROW_GROUP):
                own = wanted[start : start + ROW_GROUP]
                crops = read_crops(reader.take(own, ["crop", "image"]))
                for row, crop in zip(at[own].astype(int), crops, strict=True):
                    picture = _grey(crop)
                    if picture is not None:
                        pictures.append(picture)
                        found.append(int(row))
                progress.advance(len(own))
    empty = np.zeros((0, SIDE, SIDE), np.uint8)
    return np.stack(pictures) if pictures else empty, np.array(found, np.int64)


def _grey(crop: bytes) -> np.ndarray | None:
    """A crop as a small grey picture, decoded at half its size where its format allows it."""
    if not crop:
        return None
    decoded = cv2.imdecode(np.frombuffer(crop, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2)
    if decoded is None:
        return None
    return cv2.resize(decoded, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
