"""Who somebody is: the shape of a head and the colours on it, from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from clipaffect.synthetic.raster import interpolate, rasterise, vertex_normals
from clipaffect.synthetic.rig import PART_NAMES, Rig

TEXTURE = 1024
ANCESTRIES = ("african", "asian", "caucasian")
# Light and dark end of the skin tones (linear RGB).
SKIN = {
    "african": ((0.44, 0.29, 0.21), (0.24, 0.15, 0.10)),
    "asian": ((0.79, 0.60, 0.46), (0.66, 0.47, 0.34)),
    "caucasian": ((0.82, 0.64, 0.54), (0.72, 0.53, 0.42)),
}
DARK_HAIR = ((0.045, 0.037, 0.033), (0.11, 0.065, 0.04))
LIGHT_HAIR = ((0.26, 0.16, 0.085), (0.46, 0.34, 0.19))
BROWN_EYES = ((0.11, 0.065, 0.04), (0.24, 0.15, 0.085))
LIGHT_EYES = ((0.21, 0.30, 0.40), (0.24, 0.32, 0.21))
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
EYE = np.array([0.308, 7.284, 1.245])  # centre of the left eyeball at rest


@dataclass(frozen=True)
class Person:
    """A head at rest and its surface.

    Attributes:
        vertices: (V, 3) neutral shape.
        albedo: (TEXTURE, TEXTURE, 3) linear RGB.
        surface: (TEXTURE, TEXTURE, 3): specular weight, skin mask, inside-of-mouth mask.
        hair: linear RGB; ``long_hair`` shows the strips behind the ears.
        asymmetry: how much stronger the left side of an expression is, about +-0.15.
    """

    vertices: np.ndarray
    albedo: np.ndarray
    surface: np.ndarray
    hair: np.ndarray
    long_hair: bool
    asymmetry: float


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class SolidNoise:
    """Smooth periodic noise in rest space: no seam wherever the texture is cut."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.lattice = rng.standard_normal((32, 32, 32)).astype(np.float32)

    def __call__(self, points: np.ndarray, wavelength: float) -> np.ndarray:
        """Unit-variance noise (P,) at points (P, 3); ``wavelength`` in the mesh's units."""
        grid = (points / wavelength).T
        value = map_coordinates(self.lattice, grid, order=1, mode="grid-wrap")
        return value / 0.55


def _mix(pair: tuple[tuple[float, ...], tuple[float, ...]], t: float) -> np.ndarray:
    return np.array(pair[0]) * (1 - t) + np.array(pair[1]) * t


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


def _hairline(points: np.ndarray, shift: float) -> np.ndarray:
    """How much a rest position belongs to the scalp: 0 (skin) to 1 (hair)."""
    height = np.interp(
        points[:, 2],
        [-0.6, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.6],
        [6.75, 6.85, 7.10, 7.45, 7.75, 7.95, 8.03, 8.10],
    )
    return 1 / (1 + np.exp(-np.clip((points[:, 1] - height - shift) / 0.03, -30, 30)))


def sample_texture(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear values (P, ...) of a texture at coordinates (P, 2), v upwards."""
    height, width = texture.shape[:2]
    # cv2.remap takes maps of at most 32767 rows: fold the list into a rectangle.
    columns = 1024
    padded = np.zeros((-(-len(uv) // columns) * columns, 2), np.float32)
    padded[: len(uv), 0] = uv[:, 0] * width - 0.5
    padded[: len(uv), 1] = (1 - uv[:, 1]) * height - 0.5
    grid = padded.reshape(-1, columns, 2)
    values = cv2.remap(texture, grid, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return values.reshape(len(padded), *texture.shape[2:])[: len(uv)]


@dataclass(frozen=True)
class _Colours:
    skin: np.ndarray
    lip: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    cloth: np.ndarray
    stubble: float
    shine: float
    brow_height: float
    brow_width: float
    hairline: float


def _colours(rng: np.random.Generator, man: bool, age: float, mix: dict[str, float]) -> _Colours:
    tone = float(rng.random())
    skin = np.sum([share * _mix(SKIN[name], tone) for name, share in mix.items()], axis=0)
    light = mix.get("caucasian", 0.0) > 0.5
    hair = _mix(LIGHT_HAIR if light and rng.random() < 0.5 else DARK_HAIR, float(rng.random()))
    if age > 0.65:
        hair = 0.4 * hair + 0.6 * np.array([0.42, 0.42, 0.42])
    return _Colours(
        skin=skin * rng.uniform(0.95, 1.05),
        lip=skin * np.array([0.86, 0.60, 0.60]) * (1.0 if man else 1.08) + [0.04, 0, 0.01],
        hair=hair,
        iris=_mix(LIGHT_EYES if light and rng.random() < 0.5 else BROWN_EYES, float(rng.random())),
        cloth=rng.uniform(0.08, 0.6, 3),
        stubble=float(rng.choice([0, 0.15, 0.35, 0.6], p=[0.45, 0.3, 0.15, 0.1])) if man else 0.0,
        shine=float(rng.uniform(0.12, 0.30)),
        brow_height=float(rng.uniform(-0.02, 0.03)),
        brow_width=float(rng.uniform(0.030, 0.050) * (1.15 if man else 0.9)),
        hairline=float(rng.uniform(-0.08, 0.12)),
    )


def _paint(
    rig: Rig, c: _Colours, noise: SolidNoise, rest: np.ndarray, uv: np.ndarray, part: np.ndarray
) -> np.ndarray:
    """Surface values (P, 6) at rest positions: albedo, specular, skin, inside of mouth."""
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
    fine, medium, coarse = (noise(rest, w) for w in (0.012, 0.06, 0.3))
    mask = {name: sample_texture(rig.masks[name], uv) for name in rig.masks}
    body = part == PART_NAMES.index("body")
    albedo = c.skin * (1 + 0.022 * fine + 0.014 * medium + 0.022 * coarse)[:, None]
    specular = np.full(len(rest), c.shine)

    def lay(colour: np.ndarray, weight: np.ndarray, shine: float) -> None:
        nonlocal albedo, specular
        albedo = albedo * (1 - weight[:, None]) + colour * weight[:, None]
        specular = specular * (1 - weight) + shine * weight

    front = z > 0.9
    blush = 0.9 * np.exp(-(((x - 0.42) / 0.22) ** 2 + ((y - 6.85) / 0.22) ** 2))
    blush = (blush + 0.7 * np.exp(-((x / 0.14) ** 2 + ((y - 6.92) / 0.16) ** 2))) * front
    albedo *= 1 + blush[:, None] * np.array([0.06, -0.07, -0.06])
    socket = np.exp(-(((x - EYE[0]) / 0.17) ** 2 + ((y - 7.27) / 0.10) ** 2)) * front
    albedo *= (1 - 0.16 * socket)[:, None]
    lay(c.lip * (1 + 0.05 * medium)[:, None], 0.85 * mask["lips"] * body, c.shine + 0.25)
    inside = smoothstep(mask["inside-mouth"], 0.3, 0.8) * body
    lay(np.array([0.30, 0.09, 0.09]), inside, c.shine)

    along = (x - 0.13) / 0.38  # 0 at the inner end of the brow, 1 at the outer
    reach = np.clip(along, 0, 1)
    centre = 7.50 + c.brow_height + 0.075 * np.sin(2.2 * reach) - 0.07 * reach**2
    width = c.brow_width * np.interp(along, [-0.05, 0.1, 0.6, 1.05], [0.6, 1, 0.85, 0.15])
    brow = 1 - smoothstep(np.abs(y - centre) / width, 0.55, 1.25)
    brow *= (along > -0.05) & (along < 1.05) & front & body
    lay(0.7 * c.hair, brow * np.clip(0.82 + 0.15 * fine, 0, 1), 0.0)

    if c.stubble:
        beard = smoothstep(6.93 - y, 0, 0.14) * smoothstep(y, 6.1, 6.3)
        beard *= 1 - 0.9 * np.exp(-((x / 0.34) ** 2 + ((y - 6.65) / 0.10) ** 2))
        beard += np.exp(-((x / 0.30) ** 2 + ((y - 6.78) / 0.05) ** 2))
        beard *= (z > 0.45) * body * (1 - mask["lips"]) * c.stubble * (0.75 + 0.2 * fine)
        lay(c.hair, np.clip(beard, 0, 1), c.shine)

    strands = np.clip(0.8 + 0.3 * np.sin(70 * rest[:, 0] + 55 * z + 3 * medium), 0.3, 1.5)
    ragged = rest + np.outer(medium, [0, 0.02, 0])
    scalp = _hairline(ragged, c.hairline) * body * (1 - np.clip(2 * mask["ears"], 0, 1))
    lay(c.hair * strands[:, None], scalp, 0.10)
    lay(c.hair * strands[:, None], (part == PART_NAMES.index("hair")).astype(float), 0.10)
    cloth = smoothstep(6.02 - 0.20 * np.abs(z - 0.4) - y + 0.12 * x, -0.01, 0.01) * body
    lay(c.cloth * (1 + 0.05 * medium)[:, None], cloth, 0.05)

    for name, side in (("left_eye", 1), ("right_eye", -1)):
        here = part == PART_NAMES.index(name)
        ray = rest[here] - EYE * [side, 1, 1]
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        angle = np.arccos(np.clip(ray[:, 2], -1, 1))
        spokes = 1 + 0.3 * np.sin(23 * np.arctan2(ray[:, 1], ray[:, 0]))
        eye = np.outer(1 - 0.12 * smoothstep(angle, 0.7, 1.2), [0.80, 0.77, 0.75])
        iris = (1 - smoothstep(angle, 0.46, 0.52))[:, None]
        eye = eye * (1 - iris) + c.iris * spokes[:, None] * iris
        eye *= (1 - 0.7 * np.exp(-(((angle - 0.48) / 0.035) ** 2)))[:, None]
        albedo[here] = eye * smoothstep(angle, 0.17, 0.21)[:, None] + 0.01
        specular[here] = 0.9
    for name, colour in (("upper_teeth", (0.78, 0.74, 0.66)), ("lower_teeth", (0.74, 0.70, 0.62))):
        here = part == PART_NAMES.index(name)
        gap = np.abs(np.sin(13 * np.arctan2(rest[here, 0], z[here] - 1.0)))
        albedo[here] = np.outer(0.75 + 0.25 * smoothstep(gap, 0, 0.25), colour)
        specular[here] = 0.5
    albedo[part == PART_NAMES.index("tongue")] = (0.50, 0.18, 0.18)
    lashes = part == PART_NAMES.index("lashes")
    albedo[lashes] = 0.25 * c.skin
    specular[lashes] = 0

    skin = (body & (scalp < 0.5) & (cloth < 0.5)).astype(float)
    mouth = np.isin(part, [PART_NAMES.index(n) for n in ("upper_teeth", "lower_teeth", "tongue")])
    deep = (mouth | (inside > 0.5)).astype(float)
    return np.column_stack([np.clip(albedo, 0, 1), specular, skin, deep])


def _bake(rig: Rig, colours: _Colours, noise: SolidNoise) -> np.ndarray:
    corner = np.column_stack([rig.uv[:, 0] * TEXTURE, (1 - rig.uv[:, 1]) * TEXTURE])
    pixels, triangle, inside = rasterise(
        corner, np.zeros(len(corner)), rig.uv_triangles, (TEXTURE, TEXTURE)
    )
    rest = interpolate(rig.vertices, rig.triangles[triangle], inside)
    uv = interpolate(rig.uv, rig.uv_triangles[triangle], inside)
    texture = np.zeros((TEXTURE, TEXTURE, 6), np.float32)
    filled = np.zeros((TEXTURE, TEXTURE), np.float32)
    values = _paint(rig, colours, noise, rest, uv, rig.part[triangle])
    texture[pixels[:, 0], pixels[:, 1]] = values
    filled[pixels[:, 0], pixels[:, 1]] = 1
    for _ in range(3):  # bleed into the gutter so that bilinear look-ups see no black
        spread, weight = cv2.blur(texture, (3, 3)), cv2.blur(filled, (3, 3))
        gutter = (filled == 0) & (weight > 0)
        texture[gutter] = spread[gutter] / weight[gutter, None]
        filled[gutter] = 1
    return texture


def make_person(rig: Rig, rng: np.random.Generator) -> Person:
    """Draw a person: sex, age, ancestry (one or a mix of two), shape, skin, hair, eyes."""
    man = float(rng.random() < 0.5)
    age = float(rng.beta(1.2, 1.8) * 0.9)
    first, second = rng.permutation(ANCESTRIES)[:2]
    mix = {str(first): 1.0} if rng.random() < 0.6 else {str(first): 0.5, str(second): 0.5}
    vertices = _shape(rig, rng, float(np.clip(man + rng.normal() * 0.12, 0, 1)), age, mix)
    colours = _colours(rng, bool(man), age, mix)
    long_hair = bool(not man and rng.random() < 0.75)
    volume = rng.uniform(0.10, 0.18) if long_hair else rng.uniform(0.04, 0.15)
    corner_uv = np.zeros((len(rig.vertices), 2))
    corner_uv[rig.triangles.ravel()] = rig.uv[rig.uv_triangles.ravel()]
    ears = np.clip(2 * sample_texture(rig.masks["ears"], corner_uv), 0, 1)
    body = np.zeros(len(rig.vertices), bool)
    body[rig.triangles[rig.part == PART_NAMES.index("body")].ravel()] = True
    normals = vertex_normals(vertices, rig.triangles[rig.part == PART_NAMES.index("body")])
    grown = _hairline(rig.vertices, colours.hairline) * (1 - ears) * body * volume
    texture = _bake(rig, colours, SolidNoise(rng))
    return Person(
        vertices=vertices + normals * grown[:, None],
        albedo=np.ascontiguousarray(texture[..., :3]),
        surface=np.ascontiguousarray(texture[..., 3:]),
        hair=colours.hair,
        long_hair=long_hair,
        asymmetry=float(np.clip(rng.normal() * 0.08, -0.15, 0.15)),
    )
