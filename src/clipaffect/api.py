"""The Python interface to a trained model: ``clipaffect.load_model(folder).predict(video)``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from clipaffect.bundle.load import OpenBundle, load_heads, load_statistics
from clipaffect.bundle.prediction_columns import (
    DISTANCE_COLUMNS,
    MODEL_COLUMN,
    columns,
    task_columns,
)
from clipaffect.bundle.trained_on import trained_on
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.gpu import one_device
from clipaffect.core.layout import DEFAULT_ASSETS
from clipaffect.core.store import Store
from clipaffect.dataset.manifest import PICTURE, VIDEO
from clipaffect.encoders.registry import kind_of
from clipaffect.features.batches import embed_crops
from clipaffect.features.join_features import side_by_side
from clipaffect.prediction.batch import ensure_weights, wanted_of
from clipaffect.prediction.open_model import open_model
from clipaffect.prediction.pipeline import loaded_encoder, predicted
from clipaffect.prediction.prediction_table import (
    FINGERPRINT,
    People,
    answer_columns,
    distance_columns,
)
from clipaffect.prediction.scoring import answer_tasks, head_scores
from clipaffect.prediction.sources import Source, manifest


class Model:
    """The heads of a bundle, with everything needed to predict from images and video.

    Made by ``load_model``.
    """

    def __init__(self, opened: OpenBundle, assets: Path) -> None:
        self._opened, self._assets = opened, assets

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """The classes or labels of each task, by its name."""
        return {name: model.targets for name, model in self._opened.bundle.tasks.items()}

    @property
    def trained_on(self) -> str:
        """One-line description of the heads' training data."""
        return trained_on(self._opened.bundle)

    @property
    def fingerprint(self) -> str:
        """The sha256 that identifies the whole bundle."""
        return self._opened.fingerprint

    @property
    def columns(self) -> pd.DataFrame:
        """The data dictionary: one row for each column that ``predict`` returns."""
        listed = columns(self._opened.bundle, heads=True)
        return pd.DataFrame(
            {
                "column": [c.name for c in listed],
                "unit": [c.unit for c in listed],
                "meaning": [c.meaning for c in listed],
            }
        )

    def predict(
        self,
        video: str | os.PathLike[str],
        *,
        people: People = "all",
        rate: float | None = None,
        heads: bool = False,
        store: str | os.PathLike[str] | None = None,
    ) -> pd.DataFrame:
        """Predict from a video: one row for each frame and person.

        Args:
            video: the file.
            people: ``all``, or ``main``: only the person whose face fills most of the video.
            rate: frames to sample per second; by default the rate used in training.
            heads: add the scores of every single head.
            store: a store to cache finished work in.

        Returns:
            The columns of ``Model.columns``; a frame without a face has a row without predictions.

        Raises:
            UserError: the file does not exist, or changes while it is read.
        """
        return self._predicted(Path(video), VIDEO, people, rate, heads, store)

    def predict_image(
        self, image: str | os.PathLike[str], *, people: People = "all", heads: bool = False
    ) -> pd.DataFrame:
        """Predict from the faces of an image, largest first; see ``predict``."""
        return self._predicted(Path(image), PICTURE, people, None, heads, None)

    def _predicted(
        self,
        path: Path,
        kind: str,
        people: People,
        rate: float | None,
        heads: bool,
        store: str | os.PathLike[str] | None,
    ) -> pd.DataFrame:
        if not path.is_file():
            raise UserError("no such file", where=path, fix="correct the path")
        ensure_weights(self._opened, self._assets)
        wanted = wanted_of(self._opened, self._assets, people=people, rate=rate, heads=heads)
        listed = manifest([Source(path.name, path, kind)], people)
        with tempfile.TemporaryDirectory(prefix="clipaffect-") as folder:
            kept = Store(Path(store) if store is not None else Path(folder) / "store")
            with predicted(listed, wanted, kept, Path(folder) / "work") as found:
                parts = list(found.tables(0, len(found.rows), heads))
        return pa.concat_tables(parts).to_pandas()

    def predict_faces(self, faces: np.ndarray, *, heads: bool = False) -> pd.DataFrame:
        """Predict from face crops, each on its own (without smoothing).

        Args:
            faces: (n, H, W, 3) uint8 RGB, upright faces cropped as specified in the bundle's
                preprocessing.json, or as closely as possible.
            heads: add the scores of every single head.

        Returns:
            One row for each face, with only the columns of the predictions and of the distance.

        Raises:
            UserError: the shape or type is wrong, or the heads need crops of several kinds.
        """
        if faces.ndim != 4 or faces.shape[3] != 3 or faces.dtype != np.uint8:
            raise UserError(
                f"unsupported array: faces of shape {faces.shape} and type {faces.dtype}",
                where="predict_faces",
                fix="pass RGB faces as a uint8 array of shape (n, height, width, 3)",
            )
        bundle = self._opened.bundle
        crops_seen = {own.crop or bundle.faces.crop for own in bundle.encoders.values()}
        if len(crops_seen) > 1:
            raise UserError(
                "the model's encoders need two different kinds of face crop",
                where="predict_faces",
                fix="use predict or predict_image, which crop the faces themselves",
            )
        ensure_weights(self._opened, self._assets)
        torch.set_num_threads(1)
        # PNG keeps every pixel: the encoder sees what was given.
        crops = [cv2.imencode(".png", face[:, :, ::-1])[1].tobytes() for face in faces]
        embedded = {}
        for name, settings in self._opened.encoders.items():
            with one_device(kind_of(settings).IS_NETWORK) as device:
                encoder = loaded_encoder(settings, self._assets, device)
                embedded[name] = embed_crops(crops, encoder)
        features = {
            name: torch.from_numpy(
                embedded[parts[0]]
                if len(parts) == 1
                else side_by_side([embedded[part] for part in parts])
            )
            for name, parts in bundle.features.items()
        }
        rows = pd.DataFrame(
            {"video": [str(k) for k in range(len(faces))], "person": "", "frame": 1}
        )
        tasks, at = bundle.tasks, np.arange(len(faces))
        own = {name: load_heads(self._opened, name) for name in tasks}
        scores = {
            name: {
                key: head_scores(features[key], by_seed, model, key)
                for key, by_seed in own[name].items()
            }
            for name, model in tasks.items()
        }
        answers = answer_tasks(bundle, own, scores, rows)
        found: dict[str, pa.Array] = {}
        statistics = load_statistics(self._opened)
        if statistics is not None:
            found |= distance_columns(statistics.distance(features[bundle.own_features]))
        for name, model in tasks.items():
            found |= answer_columns(name, model, answers[name], at, heads)
        distance = [c.name for c in DISTANCE_COLUMNS if c.name in found]
        names = distance + [
            c.name for name, model in bundle.tasks.items() for c in task_columns(name, model, heads)
        ]
        table = pa.table({name: found[name] for name in names}).to_pandas()
        return table.assign(**{MODEL_COLUMN.name: self.fingerprint[:FINGERPRINT]})


def load_model(
    folder: str | os.PathLike[str],
    *,
    weights: Mapping[str, str | os.PathLike[str]] | None = None,
    configuration: str | os.PathLike[str] | None = None,
    assets: str | os.PathLike[str] | None = None,
) -> Model:
    """Open a bundle written by ``clipaffect export-model``; no code from it is run.

    Args:
        folder: the bundle, the results folder of a run that has one, or ``zero-shot``.
        weights: by encoder, weights that the bundle identifies by sha256 but does not contain.
        configuration: file with the encoder and prompts; only with ``zero-shot``.
        assets: folder for fetched networks; by default ``$CLIPAFFECT_ASSETS``, or ``assets`` in
            the working folder.

    Raises:
        UserError: there is no bundle, or it is modified, incomplete or of a later format.
    """
    given = {name: Path(path) for name, path in (weights or {}).items()}
    place = assets or os.environ.get("CLIPAFFECT_ASSETS") or DEFAULT_ASSETS
    stated = Path(configuration) if configuration is not None else None
    return Model(open_model(os.fspath(folder), given, stated, Path(place)), Path(place))


__all__ = ["FrameStatus", "Model", "load_model"]
