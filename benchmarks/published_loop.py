"""A plain re-implementation of the published training loop's structure, as the reference to
measure.

It reproduces what takes time in the published code of arXiv 2403.09915. The HDF5 file is opened for
every sample, and a DataLoader collates. CVaR's lambda comes from a bounded scalar search that waits
for a number at every evaluation. SAM takes two passes, with BatchNorm's statistics switched off in
the second. torch's modules, autograd and AdamW do the rest, on all threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.optimize import fminbound
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

WIDTH, CLASSES, BATCH, ALPHA, RHO = 768, 8, 32, 0.5, 0.5


class PerSampleFile(Dataset):
    """Opens the file again for every item."""

    def __init__(self, path: Path, labels: np.ndarray) -> None:
        self.path, self.labels = path, labels.tolist()
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        started = time.perf_counter()
        with h5py.File(self.path, "r") as file:
            feature = torch.tensor(file["features"][index], dtype=torch.float32)
        self.seconds += time.perf_counter() - started
        return feature, torch.tensor(self.labels[index], dtype=torch.float32)


def build_model() -> nn.Sequential:
    """Four linear layers with BatchNorm, ReLU and dropout 0.6 between them."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(0.6)]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


@dataclass
class Profile:
    """Seconds of each part of a number of steps."""

    samples: int = 0
    total: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str, since: float) -> float:
        """Add the time since ``since`` to a part; returns now."""
        now = time.perf_counter()
        self.parts[name] = self.parts.get(name, 0.0) + now - since
        return now


class PublishedLoop:
    """One head in the published loop."""

    def __init__(self, path: Path, labels: np.ndarray) -> None:
        self.data = PerSampleFile(path, labels)
        self.model = build_model()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=1e-4)
        self.output = torch.empty(0)
        self.criterion = nn.CrossEntropyLoss(reduction="none")

    def _loss(self, x: Tensor, y: Tensor, profile: Profile, now: float) -> tuple[Tensor, float]:
        self.output = self.model(x).squeeze()
        losses = self.criterion(self.output, y.long())
        now = profile.lap("forward", now)
        low = np.min(losses.detach().numpy()) - 1000.0
        high = np.max(losses.detach().numpy())

        def objective(level: float) -> float:
            return level + (1 / ALPHA) * torch.relu(losses.clone() - level).mean().item()

        level = fminbound(objective, low, high)
        now = profile.lap("CVaR search", now)
        return level + (1 / ALPHA) * torch.relu(losses - level).mean(), now

    def train(self, steps: int) -> Profile:
        """Take some steps, with everything an epoch does for each of them."""
        self.model.train()
        profile = Profile()
        norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm1d)]
        parameters = list(self.model.parameters())
        loader = iter(DataLoader(self.data, batch_size=BATCH, shuffle=True))
        decided: list[np.float32] = []
        truth: list[np.float32] = []
        started = time.perf_counter()
        for _ in range(steps):
            now = time.perf_counter()
            x, y = next(loader)
            now = profile.lap("reading", now)
            for norm in norms:
                norm.momentum = 0.1
            loss, now = self._loss(x, y, profile, now)
            loss.backward()
            now = profile.lap("backward", now)
            # As the common SAM class does it: a factor of one, for its adaptive form, each time.
            gradients = [p.grad for p in parameters if p.grad is not None]
            norms_of = [(1.0 * g).norm(p=2).to(g.device) for g in gradients]
            scale = RHO / (torch.norm(torch.stack(norms_of), p=2) + 1e-12)
            saved = []
            for p, gradient in zip(parameters, gradients, strict=True):
                saved.append(p.data.clone())
                p.data.add_(1.0 * gradient * scale.to(p))
            self.optimiser.zero_grad()
            now = profile.lap("SAM", now)
            for norm in norms:
                norm.momentum = 0.0
            loss, now = self._loss(x, y, profile, now)
            loss.backward()
            now = profile.lap("backward", now)
            decided.extend(self.output.argmax(1).numpy())
            truth.extend(y.numpy())
            for p, old in zip(parameters, saved, strict=True):
                p.data = old
            self.optimiser.step()
            self.optimiser.zero_grad()
            profile.lap("AdamW", now)
            float(loss.item())
            profile.samples += len(x)
        profile.total = time.perf_counter() - started
        return profile

    @torch.no_grad()
    def evaluate(self, steps: int) -> float:
        """Rows a second of the published evaluation."""
        self.model.eval()
        loader = iter(DataLoader(self.data, batch_size=BATCH))
        started, rows = time.perf_counter(), 0
        for _ in range(steps):
            x, y = next(loader)
            output = self.model(x).squeeze()
            torch.softmax(output, 1).numpy()
            self.criterion(output, y.long()).mean().item()
            rows += len(x)
        return rows / (time.perf_counter() - started)
