"""Features of batches of crops, cached in the store.

An entry is keyed by the bytes of its crops and the encoder, wherever the crops come from. So runs
and users share features, and a killed job resumes after the last entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipaffect.config.encoders import Encoder
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.gpu import one_device
from clipaffect.core.hashing import digest
from clipaffect.core.parquet import ROW_GROUP
from clipaffect.core.prefetch import map_in_order
from clipaffect.core.store import Store
from clipaffect.encoders.registry import (
    LoadedEncoder,
    check_encoder,
    encoder_record,
    kind_of,
    load_encoder,
)
from clipaffect.features.batches import Batch, Map, embed_batches, prepare_batch

BATCHES_PER_ENTRY = 4  # so that at most every fourth batch is padded
ROWS_ON_GPU = 1024  # four of a GPU's largest batches
ONE_THREAD = partial(torch.set_num_threads, 1)  # it holds for the thread that says it
Load = Callable[[Encoder, Path, str], LoadedEncoder]


def rows_per_entry(settings: Encoder, device: str) -> int:
    """The number of rows of a video whose crops are embedded together."""
    if device != "cpu":
        return ROWS_ON_GPU
    return max(ROW_GROUP, BATCHES_PER_ENTRY * settings.batch)


@dataclass
class Entry:
    """Crops that are embedded together.

    Attributes:
        crops: the different ones among them; ``which`` (n,) of these each is.
        key: of the entry in the store.
        waiting: its batches while they are prepared; none if the store has the entry.
    """

    crops: list[bytes]
    which: np.ndarray
    key: dict[str, Any]
    waiting: list[Future[Batch]] = field(default_factory=list)


class Entries:
    """The entries of one encoder; made by ``open_entries``.

    The network is loaded only if an entry is missing.
    """

    def __init__(
        self,
        settings: Encoder,
        assets: Path,
        store: Store,
        device: str,
        pool: ThreadPoolExecutor,
        each: Map,
        load: Load,
    ) -> None:
        self.settings, self.store, self.pool, self.each = settings, store, pool, each
        self.device = device
        self.record = encoder_record(settings, assets, device)
        self._load = partial(load, settings, assets, device)
        self._begun: set[str] = set()

    @cached_property
    def encoder(self) -> LoadedEncoder:
        """The network."""
        return self._load()

    @cached_property
    def dimension(self) -> int:
        """Of a feature."""

        def write(folder: Path) -> None:
            (folder / "dimension.json").write_text(json.dumps(self.encoder.dimension))

        key = {"version": VERSIONS["encoders"], "encoder": self.record}
        stored = self.store.get_or_make("encoders", key, write)
        return int(json.loads((stored / "dimension.json").read_text()))

    def entry(self, crops: list[bytes]) -> Entry:
        """The entry of some encoded crops (n)."""
        hashes = [hashlib.sha256(crop).hexdigest() for crop in crops]
        different = dict(zip(hashes, crops, strict=True))  # in the order of their first rows
        number = {name: k for k, name in enumerate(different)}
        key = {
            "version": VERSIONS["embeddings"],
            "encoder": self.record,
            "crops": digest(list(different)),
        }
        which = np.array([number[name] for name in hashes], np.int64)
        return Entry(list(different.values()), which, key)

    def begin(self, entry: Entry) -> None:
        """Start to decode and preprocess the crops of a missing entry, on separate threads."""
        name = entry.key["crops"]
        if name not in self._begun and not self.store.has("embeddings", entry.key):
            self._begun.add(name)
            self._prepare(entry)

    def _prepare(self, entry: Entry) -> None:
        entry.waiting = [
            self.pool.submit(prepare_batch, entry.crops, start, self.encoder)
            for start in range(0, len(entry.crops), self.encoder.batch)
        ]

    def features(self, entry: Entry) -> np.ndarray:
        """Features (n, dimension) float16 of an entry's crops; NaN for a damaged crop.

        Raises:
            NotFinite: the feature of one of ``entry.crops`` is not finite.
            UserError: the device's memory is too small for a batch.
        """

        def make(folder: Path) -> None:
            if not entry.waiting:  # the store had it, but it has been deleted since
                self._prepare(entry)
            batches = _as_they_come(entry)
            found = embed_batches(batches, len(entry.crops), self.encoder, self.each)
            np.save(folder / "features.npy", found)

        made = self.store.get_or_make("embeddings", entry.key, make)
        found: np.ndarray = np.load(made / "features.npy", allow_pickle=False)
        return found[entry.which]


@contextmanager
def open_entries(
    settings: Encoder, assets: Path, store: Store, load: Load | None = None, threads: int = 1
) -> Iterator[Entries]:
    """Open the entries of an encoder for a block that holds a device.

    Args:
        settings: the encoder.
        assets: folder of fetched assets.
        store: the store.
        load: stands in for ``load_encoder``, such as one that remembers.
        threads: that run the network side by side, on a CPU.
    """
    check_encoder(settings, "<name>")  # also where every feature comes from the store
    with (
        one_device(kind_of(settings).IS_NETWORK) as device,
        ThreadPoolExecutor(settings.workers, initializer=partial(_use, device)) as pool,
        map_in_order(threads if threads > 1 and device == "cpu" else 0, ONE_THREAD) as each,
    ):
        yield Entries(settings, assets, store, device, pool, each, load or load_encoder)


def _use(device: str) -> None:
    """Make a GPU this thread's: it would pin its memory for, and open, the first one."""
    if device != "cpu":
        torch.cuda.set_device(device)


def _as_they_come(entry: Entry) -> Iterator[Batch]:
    """Yield the batches of an entry, releasing each one afterwards."""
    while entry.waiting:
        yield entry.waiting.pop(0).result()
