"""How far a face's features lie from those that heads were trained on.

It is the Mahalanobis distance in the subspace of the leading principal components (Hotelling's T):
sqrt(sum_k (v_k' (x - m))^2 / l_k / d), with the mean m of the d training features, and the largest
eigenvalues l_k of their covariance with eigenvectors v_k: those that hold ``SHARE`` of the
variance, and at least ``FEWEST_DIRECTIONS``. Lee et al. 2018 use the Mahalanobis distance to find
inputs unlike the training data. In all directions, it hides what is unusual in the few directions
that vary: docs/demo.md has measurements.

The limit is the 99th percentile of held-out distances: the training people are split into ten
parts, and the faces of each part are measured with the statistics of the others. Every person has
the same weight, however long they were recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

SHARE, FEWEST_DIRECTIONS = 0.99, 10  # of the variance that is looked at
EXCEED = 0.01  # share of unseen training people's faces beyond the limit
MOST_ROWS = 20_000  # of the training data that the distribution is fitted to
PARTS, FEWEST = 10, 4  # of people


@dataclass(frozen=True)
class FeatureStatistics:
    """The training features' distribution.

    Attributes:
        mean: (d,) float32.
        whiten: (d, d) float32; the rows of (x - mean) @ whiten have unit variance in the leading
            directions, and are zero in the others.
        limit: distance beyond which a face is far from the training data.
    """

    mean: Tensor
    whiten: Tensor
    limit: float

    def distance(self, features: Tensor) -> np.ndarray:
        """Distances (n,) float32 of features (n, d), in units of the limit."""
        away = (features.float() - self.mean) @ self.whiten
        root = away.square().mean(dim=1).sqrt() / self.limit
        return root.numpy().astype(np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """For a safetensors file."""
        limit = torch.tensor([self.limit], dtype=torch.float32)
        return {"mean": self.mean, "whiten": self.whiten, "limit": limit}


def from_tensors(tensors: dict[str, Tensor]) -> FeatureStatistics:
    """The inverse of ``FeatureStatistics.tensors``."""
    return FeatureStatistics(tensors["mean"], tensors["whiten"], float(tensors["limit"][0]))


def fit_statistics(features: np.ndarray, groups: pd.Series) -> FeatureStatistics:
    """Fit the distribution to training features (n, d); ``groups`` (n,) identifies the person.

    With fewer than ``FEWEST`` people, frames are split instead. The limit is then too low for new
    people.
    """
    code = np.unique(groups.to_numpy().astype(str), return_inverse=True)[1]
    if code.max() + 1 < FEWEST:
        code = np.arange(len(features))
    at = _balanced(code)
    values, code = np.asarray(features[at], np.float64), code[at]
    part = np.random.default_rng(0).permutation(code.max() + 1) % PARTS
    distance = np.zeros(len(values))
    for number in np.unique(part[code]):
        own = part[code] == number
        mean, whiten = _fit(values[~own])
        distance[own] = np.sqrt(np.square((values[own] - mean) @ whiten).mean(axis=1))
    limit = max(_quantile(distance, 1 / np.bincount(code)[code], 1 - EXCEED), 1e-12)
    mean, whiten = _fit(values)
    return FeatureStatistics(
        torch.from_numpy(mean.astype(np.float32)),
        torch.from_numpy(whiten.astype(np.float32)),
        limit,
    )


def _balanced(code: np.ndarray) -> np.ndarray:
    """(m,) sorted rows, at most the same number of each person, ``MOST_ROWS`` or a few more."""
    most = max(1, -(-MOST_ROWS // (code.max() + 1)))
    order = np.random.default_rng(0).permutation(len(code))
    order = order[np.argsort(code[order], kind="stable")]
    starts = np.searchsorted(code[order], np.arange(code.max() + 1))
    place = np.arange(len(code)) - starts[code[order]]
    return np.sort(order[place < most])


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(reached, share)])


def _fit(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = values.mean(axis=0)
    variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(values, rowvar=False, ddof=0)))
    variances = np.maximum(variances, 1e-12)
    held = np.cumsum(variances[::-1])[::-1]  # by a direction and those of larger variance
    larger = np.append(held[1:], 0.0)
    kept = larger < SHARE * held[0]
    kept[-FEWEST_DIRECTIONS:] = True
    kept &= variances > 1e-9 * variances[-1]  # few rows leave directions without any variance
    return mean, directions * np.where(kept, 1 / np.sqrt(variances), 0.0)
