"""Stage ``embeddings`` on a machine with GPUs: one process a GPU embeds many shards in turn.

A process takes ten seconds to start, and a second one would only wait for the GPU.
"""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from clipaffect.config.encoders import Encoder
from clipaffect.core.processes import end_with_parent
from clipaffect.core.store import Store
from clipaffect.features.cached_batches import open_entries
from clipaffect.features.embed_faces import embed_shard, refuse_mixture

Shard = tuple[Path, Path, Path]


def embed_on_gpu(
    manifests: list[Path],
    faces: list[Path],
    settings: Encoder,
    assets: Path,
    store: Store,
    out: Path,
    gpus: int,
) -> None:
    """Write the features of many shards into the folder ``out``, named as their ``faces``.

    Args:
        manifests, faces: of each shard.
        settings: the encoder.
        assets: folder of fetched assets.
        store: the store.
        out: the folder.
        gpus: how many processes embed side by side.
    """
    shards = [(a, b, out / b.name) for a, b in zip(manifests, faces, strict=True)]
    shares = [shards[number::gpus] for number in range(min(gpus, len(shards)))]
    if len(shares) < 2:  # also where there is no GPU any more
        _embed(shards, settings, assets, store)
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(len(shares), context, _begin) as pool:
        running = [pool.submit(_embed, share, settings, assets, store) for share in shares]
        for future in running:
            future.result()


def _begin() -> None:
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s")


def _embed(shards: list[Shard], settings: Encoder, assets: Path, store: Store) -> None:
    torch.set_num_threads(1)
    with open_entries(settings, assets, store) as entries:
        for manifest, faces, out in shards:
            refuse_mixture(entries, assets, out)
            embed_shard(manifest, faces, entries, out)
