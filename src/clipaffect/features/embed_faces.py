"""Stage ``embeddings``: one row with a feature for each row of a shard's faces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from clipaffect.config.encoders import Encoder
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import KEYS, FrameStatus
from clipaffect.core.hashing import digest
from clipaffect.core.parquet import RowReader, read_schema, read_table, write_batches
from clipaffect.core.progress import Progress
from clipaffect.core.store import Store
from clipaffect.dataset.manifest import VIDEO, runs_of_images
from clipaffect.encoders.registry import encoder_record
from clipaffect.faces.crops import read_crops
from clipaffect.features.batches import NotFinite
from clipaffect.features.cached_batches import Entries, Entry, Load, open_entries, rows_per_entry
from clipaffect.features.columns import not_finite, schema


@dataclass(frozen=True)
class _Part:
    """Some rows of a video (or of single images), and the cache entry of their crops.

    Attributes:
        rows: of the shard's faces, with their numbers in it as the index.
        found: (n,) numbers of the rows with a face.
        entry: the cache entry of these rows' crops.
    """

    rows: pd.DataFrame
    found: np.ndarray
    entry: Entry


def embed_faces(
    manifest: Path,
    faces: Path,
    settings: Encoder,
    assets: Path,
    store: Store,
    out: Path,
    load: Load | None = None,
    threads: int = 1,
) -> None:
    """Write ``out``: the features of every row of ``faces``, in its order.

    See ``embed_shard``, and ``open_entries`` for ``load`` and ``threads``.

    Raises:
        UserError: see ``refuse_mixture`` and ``open_entries``; or a feature is not finite.
    """
    torch.set_num_threads(1)  # one job is one thread: its bytes do not depend on the machine's load
    with open_entries(settings, assets, store, load, threads) as entries:
        refuse_mixture(entries, assets, out)
        embed_shard(manifest, faces, entries, out)


def embed_shard(manifest: Path, faces: Path, entries: Entries, out: Path) -> None:
    """Write ``out``: the features of every row of ``faces``, in its order.

    Identical crops among the rows of an entry are embedded once. While the network processes one
    entry, the crops of the next are decoded on separate threads.

    Raises:
        UserError: a feature is not finite.
    """
    rows = read_table(faces, list([*KEYS, "status"]))

    def tables() -> Iterator[pa.Table]:
        with Progress("crops", len(rows)) as progress:
            for part in _one_ahead(_parts(rows, manifest, faces, entries), entries):
                try:
                    features = entries.features(part.entry)
                except NotFinite as error:
                    row = part.found[np.flatnonzero(part.entry.which == error.args[0])[0]]
                    fix = "set precision: fp32, or check the weights of the encoder"
                    where = "encoders.<name>.precision, or the encoder's weights"
                    raise not_finite(rows.loc[row], where, fix) from None
                yield _with_features(part.rows, features)
                progress.advance(len(part.rows))

    write_batches(out, schema(entries.dimension, digest(entries.record)), tables())


def refuse_mixture(entries: Entries, assets: Path, out: Path) -> None:
    """Refuse a shard on a device if another one of the run was embedded on the other kind.

    A table needs features of one record, so ``build_table`` would refuse them after the work.

    Raises:
        UserError: a file beside ``out`` holds the same features, made on the other kind of device.
    """
    kind, _, _ = entries.device.partition(":")
    other = "cpu" if kind == "cuda" else "cuda"
    theirs = encoder_record(entries.settings, assets, other)
    if theirs == entries.record:
        return  # of no network
    for path in sorted(out.parent.glob("*.parquet")):
        if (read_schema(path).metadata or {}).get(b"encoder", b"").decode() == digest(theirs):
            raise UserError(
                f"shard {path.stem} was embedded on '{other}', and this job would use '{kind}'; "
                "their features differ in the last digits",
                where=out,
                fix=f"run all shards on one kind of machine: on '{other}', or delete {out.parent} "
                f"to embed all of them on '{kind}'",
            )


def _parts(rows: pd.DataFrame, manifest: Path, faces: Path, entries: Entries) -> Iterator[_Part]:
    """The rows of a shard in parts, in order, each with its crops."""
    table = RowReader(faces)
    listed = read_table(manifest, ["video", "kind"])
    single = ~rows["video"].isin(listed["video"][listed["kind"] == VIDEO])
    source = rows["video"].where(~single, runs_of_images(rows["video"][single]))
    length = rows_per_entry(entries.settings, entries.device)
    for _, own in rows.groupby(source, sort=False):
        for start in range(0, len(own), length):
            part = own.iloc[start : start + length]
            found = part.index[part["status"] == FrameStatus.OK].to_numpy()
            crops = read_crops(table.take(found, ["crop", "image"])) if len(found) else []
            yield _Part(part, found, entries.entry(crops))


def _one_ahead(parts: Iterator[_Part], entries: Entries) -> Iterator[_Part]:
    """Yield the parts, starting each one before the previous one is handed out."""
    before = None
    for part in parts:
        entries.begin(part.entry)
        if before is not None:
            yield before
        before = part
    if before is not None:
        yield before


def _with_features(part: pd.DataFrame, features: np.ndarray) -> pa.Table:
    """The key columns of ``part`` and the features of its rows with a face; null elsewhere."""
    has_face = (part["status"] == FrameStatus.OK).to_numpy(copy=True)
    values = np.zeros((len(part), features.shape[1]), np.float16)
    values[has_face] = features
    damaged = np.isnan(values[:, 0])
    values[damaged], has_face[damaged] = 0, False
    part = part.assign(status=part["status"].mask(damaged, str(FrameStatus.IMAGE_UNREADABLE)))
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(values.ravel()), features.shape[1], mask=pa.array(~has_face)
    )
    keys = pa.Table.from_pandas(part[list([*KEYS, "status"])], preserve_index=False)
    return keys.append_column("feature", column)
