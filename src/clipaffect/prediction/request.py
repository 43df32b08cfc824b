"""The model used for a prediction, as known to the workflow before any job runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipaffect.bundle.format import read_bundle
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.models import Config
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import canonical_json
from clipaffect.core.layout import Layout, Model


@dataclass(frozen=True)
class PredictionRequest:
    """A model's faces and encoders.

    Attributes:
        model: its ``bundle.json``.
        faces: which frames, and how faces are found.
        encoders: by name.
    """

    model: Path
    faces: Faces
    encoders: dict[str, Encoder]

    def crop(self, encoder: str) -> str:
        """The kind of face crop for an encoder."""
        return self.encoders[encoder].crop or self.faces.crop

    def faces_settings(self, crop: str) -> str:
        """Settings of the stage ``faces``, with one kind of crop."""
        faces = Faces.model_validate(self.faces.model_dump() | {"crop": crop})
        return canonical_json(
            {"version": VERSIONS["detections"], "faces": faces.model_dump(mode="json")}
        )

    def encoder_settings(self, name: str) -> str:
        """Settings of the stage ``embeddings`` for an encoder."""
        encoder = self.encoders[name].model_dump(mode="json")
        return canonical_json({"version": VERSIONS["embeddings"], "encoder": encoder})


def prediction_request(config: Config) -> PredictionRequest:
    """The model that ``prediction`` names, or the run's own with all encoders its heads may need.

    Raises:
        UserError: the bundle does not exist, or does not contain the weights that it needs.
    """
    if config.prediction.model is None:
        names = [config.encoder, *config.postprocess.encoders]
        parts = [part for name in names for part in config.features.join.get(name, (name,))]
        encoders = {name: config.encoders[name] for name in parts if name in config.encoders}
        model, faces = Layout(Path("results") / config.run).model.bundle, config.faces
    else:
        model = Model(Path(config.prediction.model)).bundle
        bundle = read_bundle(model)
        faces, encoders = bundle.faces, dict(bundle.encoders)
        for name, own in encoders.items():
            if own.file is None:
                continue
            if own.file not in bundle.files:
                raise UserError(
                    f"the bundle does not contain the weights of '{name}'",
                    where=model,
                    fix="export it with --include-weights, or use 'clipaffect predict --weights'",
                )
            path = str(model.parent / own.file)
            encoders[name] = own.model_copy(update={"file": path})
    return PredictionRequest(model, faces.at_rate(config.prediction.rate), encoders)
