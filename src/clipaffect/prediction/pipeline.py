"""Run the stages of the pipeline on one video, or on some images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from clipaffect.bundle.format import Bundle
from clipaffect.bundle.load import OpenBundle
from clipaffect.config.faces import Faces
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.hashing import digest
from clipaffect.core.parquet import write_table
from clipaffect.core.store import Store
from clipaffect.dataset.extract_frames import extract_frames
from clipaffect.dataset.manifest import MANIFEST
from clipaffect.encoders.registry import encoder_record, kind_of, load_encoder
from clipaffect.encoders.untrained import open_clip
from clipaffect.faces.align_faces import align_faces
from clipaffect.features.embed_faces import embed_faces
from clipaffect.features.join_features import join_features
from clipaffect.prediction.prediction_table import People, Predicted, predict_rows

OUTPUTS = 3  # raised when tables or pages get other contents, while scores stay
# A job has many videos and one network.
loaded_encoder = lru_cache(maxsize=4)(load_encoder)


@dataclass(frozen=True)
class Wanted:
    """The settings of a prediction.

    Attributes:
        opened: the bundle.
        faces: which frames, and how faces are found: the bundle's, but for the sampling.
        people: everyone, or only the person whose face fills most of the video.
        heads: whether the scores of every single head are written.
        pictures: whether pages may show people.
        assets: folder of fetched assets.
        device: class of the encoders' device, which the features depend on.
        threads: that work on a video; nothing that is written depends on it.
        landmarks: whether all points of the face mesh are written.
        overlay: whether a copy of each video with the predictions drawn in is written.
        groups: a table with further columns for each file, if any.
    """

    opened: OpenBundle
    faces: Faces
    people: People
    heads: bool
    pictures: bool
    assets: Path
    device: str
    threads: int = 1
    landmarks: bool = False
    overlay: bool = False
    groups: Path | None = None

    def fingerprint(self) -> str:
        """Digest of everything that the outputs depend on, besides the file."""
        stages = ("frames", "detections", "embeddings", "encoders", "prediction")
        return digest(
            {
                "model": self.opened.fingerprint,
                "faces": self.faces.model_dump(mode="json"),
                "people": self.people,
                "heads": self.heads,
                "pictures": self.pictures,
                "landmarks": self.landmarks,
                "overlay": self.overlay,
                "stages": {name: VERSIONS[name] for name in stages},
                "outputs": OUTPUTS,
                "encoders": {
                    name: encoder_record(own, self.assets, self.device)
                    for name, own in self.opened.encoders.items()
                },
            }
        )


@contextmanager
def predicted(
    listed: pd.DataFrame, wanted: Wanted, store: Store, work: Path
) -> Iterator[Predicted]:
    """Predict the files of a manifest; its face tables are kept in ``work`` meanwhile.

    Args:
        listed: see ``sources.manifest``.
        wanted: what is asked.
        store: the cache of finished work, from which an interrupted call resumes.
        work: a folder of this call's own.
    """
    work.mkdir(parents=True, exist_ok=True)
    importing = ThreadPoolExecutor(1)
    if any(kind_of(own).IS_NETWORK for own in wanted.opened.encoders.values()):
        importing.submit(open_clip)  # 3 s, in which frames are indexed
    try:
        manifest, frames = work / "manifest.parquet", work / "frames.parquet"
        write_table(manifest, listed, MANIFEST)
        extract_frames(manifest, store, frames)
        embeddings: dict[str, Path] = {}
        tables: dict[str, Path] = {}
        for name, encoder in wanted.opened.encoders.items():
            crop = encoder.crop or wanted.faces.crop
            if crop not in tables:
                tables[crop] = work / f"faces-{crop}.parquet"
                faces = wanted.faces.model_copy(update={"crop": crop})
                align_faces(
                    manifest, frames, faces, wanted.assets, store, tables[crop], wanted.threads
                )
            embeddings[name] = work / f"{name}.parquet"
            embed_faces(
                manifest,
                tables[crop],
                encoder,
                wanted.assets,
                store,
                embeddings[name],
                loaded_encoder,
                wanted.threads,
            )
        own = tables.get(wanted.faces.crop, next(iter(tables.values())))
        features = features_of(wanted.opened.bundle, embeddings, work)
        yield predict_rows(wanted.opened, own, features, wanted.people)
    finally:
        importing.shutdown()
        for path in [*work.glob("*.parquet"), *work.glob(".*.part")]:
            path.unlink(missing_ok=True)
        if work.is_dir() and not any(work.iterdir()):
            shutil.rmtree(work, ignore_errors=True)


def features_of(bundle: Bundle, embeddings: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The feature files of a bundle, from those of its encoders; joined ones are in ``folder``."""
    found = {}
    for name, parts in bundle.features.items():
        found[name] = embeddings[parts[0]]
        if len(parts) > 1:
            found[name] = folder / f"joined-{name}.parquet"
            join_features([embeddings[part] for part in parts], found[name])
    return found
