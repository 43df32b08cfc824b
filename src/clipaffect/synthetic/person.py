"""A rendered person: head shape, surface and glasses."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from clipaffect.synthetic.glasses import Glasses, draw_glasses
from clipaffect.synthetic.raster import interpolate, rasterise, vertex_normals
from clipaffect.synthetic.rig import PART_NAMES, Rig
from clipaffect.synthetic.skin import Looks, SolidNoise, draw_looks, hairline, paint, sample_texture

TEXTURE = 1024
ANCESTRIES = ("african", "asian", "caucasian")
MEN = 326 / 554  # of Aff-Wild2's subjects (docs/demo.md)
OPPOSITES = (
    ("-decr", "-incr"),
    ("-down", "-up"),
    ("-in", "-out"),
    ("-backward", "-forward"),
    ("-compress", "-uncompress"),
    ("-concave", "-convex"),
)
HEAD_SHAPES = ("oval", "round", "square", "triangular", "rectangular", "diamond")
# Shapes that would move the head as a whole.
LEFT_ALONE = ("head-trans", "head-angle", "neck-", "measure-")
PULLS_EYES = ("l-eye-trans", "l-eye-push")  # off their sockets
SHAPE_SPREAD = 0.20
EAR = np.array([0.80, 7.30, 0.20])  # where the left arm of the glasses rests, in the rest pose


@dataclass(frozen=True)
class Person:
    """A head at rest and its surface.

    Attributes:
        vertices: (V, 3) neutral shape.
        albedo: (TEXTURE, TEXTURE, 3) linear RGB.
        surface: (TEXTURE, TEXTURE, 3): specular weight, skin mask, inside-of-mouth mask.
        cloth: (3,) linear RGB.
        long_hair: shows the strips behind the ears.
        asymmetry: how much stronger the left side of an expression is, about +-0.25.
        glasses: None for most people.
        ears: (2, 3) where the arms of glasses rest, the left one first.
    """

    vertices: np.ndarray
    albedo: np.ndarray
    surface: np.ndarray
    cloth: np.ndarray
    long_hair: bool
    asymmetry: float
    glasses: Glasses | None
    ears: np.ndarray


def _shape(
    rig: Rig, rng: np.random.Generator, man: float, age: float, ancestry: dict[str, float]
) -> np.ndarray:
    vertices = rig.vertices.copy()
    for sex, by_sex in (("female", 1 - man), ("male", man)):
        for years, by_age in (("young", 1 - age), ("old", age)):
            for name, share in ancestry.items():
                rig.add(vertices, f"macro/{name}-{sex}-{years}", by_sex * by_age * share)
    names = {name.removeprefix("local/") for name in rig.targets if name.startswith("local/")}
    for minus, plus in OPPOSITES:
        for low in sorted(name for name in names if name.endswith(minus)):
            base = low.removesuffix(minus)
            high = base + plus
            if high not in names or base.startswith("r-") or base.startswith(LEFT_ALONE):
                continue
            weight = float(np.clip(rng.normal() * SHAPE_SPREAD, -0.6, 0.6))
            if base.startswith(PULLS_EYES):
                continue
            for side in (base, "r-" + base[2:]) if base.startswith("l-") else (base,):
                rig.add(vertices, f"local/{side}{plus if weight > 0 else minus}", abs(weight))
    shape = HEAD_SHAPES[rng.integers(len(HEAD_SHAPES))]
    rig.add(vertices, f"local/head-{shape}", float(rng.uniform(0, 0.5)))
    return vertices


def _bake(rig: Rig, looks: Looks, noise: SolidNoise) -> np.ndarray:
    corner = np.column_stack([rig.uv[:, 0] * TEXTURE, (1 - rig.uv[:, 1]) * TEXTURE])
    pixels, triangle, inside = rasterise(
        corner, np.zeros(len(corner)), rig.uv_triangles, (TEXTURE, TEXTURE)
    )
    rest = interpolate(rig.vertices, rig.triangles[triangle], inside)
    uv = interpolate(rig.uv, rig.uv_triangles[triangle], inside)
    texture = np.zeros((TEXTURE, TEXTURE, 6), np.float32)
    filled = np.zeros((TEXTURE, TEXTURE), np.float32)
    values = paint(rig, looks, noise, rest, uv, rig.part[triangle])
    texture[pixels[:, 0], pixels[:, 1]] = values
    filled[pixels[:, 0], pixels[:, 1]] = 1
    for _ in range(3):  # bleed into the gutter so that bilinear look-ups see no black
        spread, weight = cv2.blur(texture, (3, 3)), cv2.blur(filled, (3, 3))
        gutter = (filled == 0) & (weight > 0)
        texture[gutter] = spread[gutter] / weight[gutter, None]
        filled[gutter] = 1
    return texture


def _nearest(rig: Rig, place: np.ndarray) -> int:
    return int(np.linalg.norm(rig.vertices - place, axis=1).argmin())


def make_person(rig: Rig, rng: np.random.Generator) -> Person:
    """Draw a person: sex, age, ancestry (one or a mix of two), shape, skin, hair, glasses."""
    man = float(rng.random() < MEN)
    age = float(rng.beta(1.2, 1.5))
    first, second = rng.permutation(ANCESTRIES)[:2]
    part = float(rng.uniform(0.3, 0.7))
    mix = {str(first): 1.0} if rng.random() < 0.6 else {str(first): part, str(second): 1 - part}
    vertices = _shape(rig, rng, float(np.clip(man + rng.normal() * 0.15, 0, 1)), age, mix)
    looks = draw_looks(rng, bool(man), age, mix)
    long_hair = bool(rng.random() < (0.08 if man else 0.7))
    thick = long_hair or looks.cover is not None
    volume = rng.uniform(0.10, 0.22) if thick else rng.uniform(0, 0.15)
    corner_uv = np.zeros((len(rig.vertices), 2))
    corner_uv[rig.triangles.ravel()] = rig.uv[rig.uv_triangles.ravel()]
    ears = np.clip(2 * sample_texture(rig.masks["ears"], corner_uv), 0, 1)
    body = np.zeros(len(rig.vertices), bool)
    body[rig.triangles[rig.part == PART_NAMES.index("body")].ravel()] = True
    normals = vertex_normals(vertices, rig.triangles[rig.part == PART_NAMES.index("body")])
    grown = hairline(rig.vertices, looks.hairline) * (1 - ears) * body * volume
    texture = _bake(rig, looks, SolidNoise(rng))
    return Person(
        vertices=vertices + normals * grown[:, None],
        albedo=np.ascontiguousarray(texture[..., :3]),
        surface=np.ascontiguousarray(texture[..., 3:]),
        cloth=looks.cloth,
        long_hair=long_hair,
        asymmetry=float(np.clip(rng.normal() * 0.10, -0.25, 0.25)),
        glasses=draw_glasses(rng),
        ears=vertices[[_nearest(rig, EAR * [side, 1, 1]) for side in (1, -1)]],
    )
