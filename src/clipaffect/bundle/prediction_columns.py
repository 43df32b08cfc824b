"""The columns of predictions (the data dictionary): names, types, units and meanings."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from clipaffect.bundle.format import Bundle, TaskModel
from clipaffect.core.errors import UserError
from clipaffect.faces.landmarks import POINTS

PIXELS = "pixels of the video, from its upper left corner"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: in Parquet and CSV.
        kind: of its values; every column may be empty (null) where there is nothing to say.
        unit: of its values.
        meaning: for a reader.
    """

    name: str
    kind: pa.DataType
    unit: str
    meaning: str


FRAME_COLUMNS = [
    Column("video", pa.string(), "", "name of the file, below the folder that was given"),
    Column(
        "frame",
        pa.int32(),
        "from 1",
        "frame number in presentation order; 0: the whole file could not be read",
    ),
    Column("time", pa.float64(), "seconds", "presentation time of the frame; empty for images"),
    Column(
        "person",
        pa.int32(),
        "from 1",
        "number of the person in this video, in order of "
        "appearance; empty: no face in this frame. With --people main, only the main person is "
        "included, as 1",
    ),
    Column("status", pa.string(), "", "status of the frame: see docs/outcomes.md"),
    Column("faces_in_frame", pa.int16(), "faces", "number of faces found"),
    Column("face_score", pa.float32(), "0 to 1", "confidence of the networks that it is a face"),
    Column("box_left", pa.float32(), PIXELS, "of the face's box (the extent of its landmarks)"),
    Column("box_top", pa.float32(), PIXELS, "of the face's box"),
    Column("box_width", pa.float32(), "pixels", "of the face's box"),
    Column("box_height", pa.float32(), "pixels", "of the face's box"),
    *(
        Column(
            f"{point}_{axis}",
            pa.float32(),
            PIXELS,
            f"{point.replace('_', ' ')}; right and left are the person's own",
        )
        for point in POINTS
        for axis in ("x", "y")
    ),
    Column("eye_distance", pa.float32(), "pixels", "between the middles of the eyes"),
    Column("yaw", pa.float32(), "degrees", "positive: turned to the image's right"),
    Column("pitch", pa.float32(), "degrees", "positive: looking down"),
    Column("roll", pa.float32(), "degrees", "positive: clockwise in the image"),
    Column("visible", pa.float32(), "0 to 1", "share of the landmarks inside the image"),
    Column("sharpness", pa.float32(), "", "variance of the crop's Laplacian; low means blurred"),
]
DISTANCE_COLUMNS = [
    Column(
        "distance",
        pa.float32(),
        "1 = limit",
        "Mahalanobis distance of the face's features from the training features, divided by the "
        "limit: the 99th percentile for held-out training people",
    ),
    Column(
        "far",
        pa.bool_(),
        "",
        "whether distance is above 1; the model's evaluation scores do not apply to such faces",
    ),
]
MODEL_COLUMN = Column("model", pa.string(), "", "fingerprint of the bundle that was used")


def task_columns(name: str, model: TaskModel, heads: bool) -> list[Column]:
    """Columns of one task; with ``heads`` those of every single head too."""
    kind, found = pa.float32(), []
    if not model.multilabel:
        found.append(
            Column(
                name,
                pa.dictionary(pa.int16(), pa.string()),
                "",
                f"the predicted {name} class, "
                "with the largest probability after the model's prior adjustment, if any",
            )
        )
    for target in model.targets:
        found.append(
            Column(
                f"{name}_{target}",
                kind,
                "0 to 1",
                f"probability of {target}, after the model's averaging, smoothing and temperature",
            )
        )
        if model.multilabel:
            found += [
                Column(
                    f"{name}_{target}_shown",
                    pa.bool_(),
                    "",
                    f"whether {target} is predicted to be present: probability >= threshold",
                ),
                Column(
                    f"{name}_{target}_threshold",
                    kind,
                    "0 to 1",
                    "threshold of that decision"
                    + (", chosen on training people" if model.steps else ""),
                ),
            ]
        found.append(
            Column(
                f"{name}_{target}_spread",
                kind,
                "",
                "sample deviation of the single heads' scores over the seeds; empty for one seed",
            )
        )
    if heads:
        found += [
            Column(
                f"{name}_{target}_seed{seed}",
                kind,
                "0 to 1",
                f"the score of the head of seed "
                f"{seed} alone, before any step: the evaluation's, to the bit",
            )
            for seed in model.heads[0].seeds
            for target in model.targets
        ]
    return found


def columns(bundle: Bundle, heads: bool) -> list[Column]:
    """Every column of ``frames.parquet`` and ``frames.csv``, in order.

    Raises:
        UserError: two would have one name.
    """
    tasks = [c for name, model in bundle.tasks.items() for c in task_columns(name, model, heads)]
    measured = DISTANCE_COLUMNS if bundle.feature_statistics is not None else []
    found = [*FRAME_COLUMNS, *measured, *tasks, MODEL_COLUMN]
    names = [column.name for column in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"two columns of the predictions would have the name '{twice[0]}'",
            where="the targets",
            fix="rename a class or label in the data, and train again",
        )
    return found


def person_columns(bundle: Bundle) -> list[Column]:
    """Every column of ``people.csv``, in order."""
    kind = pa.float64()
    found = [
        Column("video", pa.string(), "", "name of the file"),
        Column("person", pa.int32(), "from 1", "number of the person in this video"),
        Column("frames", pa.int32(), "frames", "frames in which the person was looked for"),
        Column("frames_with_face", pa.int32(), "frames", "frames with predictions"),
        Column("first_time", kind, "seconds", "time of the person's first frame"),
        Column("last_time", kind, "seconds", "time of the person's last frame"),
    ]
    for name, model in bundle.tasks.items():
        if not model.multilabel:
            found.append(Column(name, pa.string(), "", f"the {name} class predicted most often"))
        for target in model.targets:
            of = f"{name}_{target}"
            found += [
                Column(f"{of}_share", kind, "0 to 1", f"share of the frames predicted as {target}"),
                Column(f"{of}_mean", kind, "0 to 1", f"mean probability of {target}"),
                Column(f"{of}_peak", kind, "0 to 1", f"largest probability of {target}"),
                Column(
                    f"{of}_change",
                    kind,
                    "per second",
                    f"mean absolute change of the probability of {target}; frames more than half a "
                    "second apart are not compared",
                ),
            ]
    return found


def taken_columns(bundle: Bundle, heads: bool) -> list[str]:
    """The names of all columns of predictions, which a user's own columns must not have."""
    return [column.name for column in (*columns(bundle, heads), *person_columns(bundle))]


def table_schema(listed: list[Column]) -> pa.Schema:
    """The columns as a schema."""
    return pa.schema([(column.name, column.kind) for column in listed])
