"""What is on a head: skin, hair, beard, make-up, eyes and teeth, painted in rest space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

from clipaffect.synthetic.rig import PART_NAMES, Rig

# Light and dark end of the skin tones (linear RGB).
SKIN = {
    "african": ((0.50, 0.33, 0.24), (0.17, 0.10, 0.065)),
    "asian": ((0.82, 0.63, 0.49), (0.50, 0.33, 0.22)),
    "caucasian": ((0.85, 0.67, 0.57), (0.60, 0.43, 0.33)),
}
DARK_HAIR = ((0.030, 0.025, 0.023), (0.11, 0.065, 0.04))
LIGHT_HAIR = ((0.26, 0.16, 0.085), (0.60, 0.47, 0.28))
GREY_HAIR = np.array([0.46, 0.46, 0.47])
BROWN_EYES = ((0.09, 0.05, 0.03), (0.24, 0.15, 0.085))
LIGHT_EYES = ((0.21, 0.30, 0.40), (0.24, 0.32, 0.21))
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
BEARD_SHARES = (0.45, 0.25, 0.06, 0.08, 0.16)
EYE = np.array([0.308, 7.284, 1.245])  # centre of the left eyeball at rest


@dataclass(frozen=True)
class Looks:
    """Colours (linear RGB) and measures of what is painted on a head.

    Attributes:
        beard, density: its style (``BEARDS``) and how much of the skin it hides.
        curls: approximate number of hair strands; ``ragged`` is the waviness of the hairline.
        wrinkles: depth of the folds that stay when the face rests, 0 to 1.
        freckles, blotches: strength, 0 to 1.
        moles: (k, 2) x and y of dark spots, both in the rest position.
        lipstick, shadow, liner: strength of make-up, 0 to 1; ``paint`` colours lips and lids.
        cover: cloth over the hair, or None.
    """

    skin: np.ndarray
    lip: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    cloth: np.ndarray
    teeth: float
    beard: str
    density: float
    shine: float
    brow_height: float
    brow_width: float
    brow_weight: float
    hairline: float
    curls: float
    ragged: float
    wrinkles: float
    freckles: float
    blotches: float
    moles: np.ndarray
    lipstick: float
    shadow: float
    liner: float
    paint: np.ndarray
    cover: np.ndarray | None


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _bump(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((distance / width) ** 2))


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


def draw_looks(
    rng: np.random.Generator, man: bool, age: float, ancestry: Mapping[str, float]
) -> Looks:
    """Sample a person's looks.

    Args:
        rng: the only source of randomness.
        man: affects beard, brows and make-up.
        age: 0 (young) to 1 (old); hair greys and thins, folds deepen.
        ancestry: share of each key of ``SKIN``.
    """
    tone = float(rng.random())
    skin = np.sum([share * _mix(SKIN[name], tone) for name, share in ancestry.items()], axis=0)
    light = ancestry.get("caucasian", 0.0) > 0.4
    hair = _mix(LIGHT_HAIR if light and rng.random() < 0.5 else DARK_HAIR, float(rng.random()))
    if rng.random() < 0.05:
        hair = rng.uniform(0.05, 0.5, 3)  # dyed
    grey = float(np.clip((age - 0.35) / 0.4, 0, 1) * rng.random())
    made_up = not man and rng.random() < 0.5
    bald = man and rng.random() < 0.08 + 0.25 * age
    fringe = not bald and rng.random() < 0.15
    beard = str(rng.choice(BEARDS, p=BEARD_SHARES)) if man else "none"
    line = rng.uniform(0.25, 0.6) if bald else rng.uniform(-0.28, -0.12) if fringe else None
    return Looks(
        skin=skin * rng.uniform(0.93, 1.07) * (1 + rng.normal(0, 0.025, 3)),
        lip=skin * np.array([0.86, 0.60, 0.60]) * (1.0 if man else 1.08) + [0.04, 0, 0.01],
        hair=(1 - grey) * hair + grey * GREY_HAIR,
        iris=_mix(LIGHT_EYES if light and rng.random() < 0.5 else BROWN_EYES, float(rng.random())),
        cloth=rng.uniform(0.04, 0.75, 3),
        teeth=float(rng.uniform(0.7, 1.1)),
        beard=beard,
        density=float(rng.uniform(0.15, 0.5) if beard == "stubble" else rng.uniform(0.7, 0.95)),
        shine=float(rng.uniform(0.06, 0.36)),
        brow_height=float(rng.uniform(-0.03, 0.04)),
        brow_width=float(rng.uniform(0.026, 0.056) * (1.15 if man else 0.9)),
        brow_weight=float(rng.uniform(0.45, 1.0)),
        hairline=float(rng.uniform(-0.10, 0.14) if line is None else line),
        curls=float(rng.uniform(30, 110)),
        ragged=float(rng.uniform(0.01, 0.05)),
        wrinkles=float(np.clip(age - 0.2, 0, 1) * rng.uniform(0.2, 1.0)),
        freckles=float(rng.random() if light and rng.random() < 0.25 else 0.0),
        blotches=float(rng.uniform(0.3, 1.6)),
        moles=rng.uniform([-0.6, 6.4], [0.6, 7.8], (int(rng.integers(0, 4)), 2)),
        lipstick=float(rng.uniform(0.3, 0.95) if made_up else 0.0),
        shadow=float(rng.uniform(0.0, 0.6) if made_up else 0.0),
        liner=float(rng.uniform(0.2, 0.9) if made_up else 0.0),
        paint=np.array([rng.uniform(0.35, 0.75), rng.uniform(0.03, 0.25), rng.uniform(0.05, 0.3)]),
        cover=rng.uniform(0.03, 0.7, 3) if rng.random() < 0.07 else None,
    )


def hairline(points: np.ndarray, shift: float) -> np.ndarray:
    """How much a rest position belongs to the scalp: 0 (skin) to 1 (hair)."""
    height = np.interp(
        points[:, 2],
        [-0.6, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.6],
        [6.75, 6.85, 7.10, 7.45, 7.75, 7.95, 8.03, 8.10],
    )
    return 1 / (1 + np.exp(-np.clip((points[:, 1] - height - shift) / 0.03, -30, 30)))


def furrows(rest: np.ndarray, intensity: Mapping[int, float]) -> np.ndarray:
    """Depth (P,) in [0, 1] of the skin folds that action units make at rest positions (P, 3)."""
    x, y = np.abs(rest[:, 0]), rest[:, 1]
    brow_pinch = _bump(x - 0.065, 0.020) * _bump(y - 7.50, 0.10)
    forehead = sum(_bump(y - level - 0.03 * x, 0.016) for level in (7.68, 7.79, 7.90))
    forehead = forehead * _bump(x, 0.40)
    nose = (_bump(y - 7.24 + 0.4 * x, 0.016) + _bump(y - 7.31 + 0.4 * x, 0.016)) * _bump(
        x - 0.05, 0.07
    )
    down = np.clip((7.00 - y) / 0.34, 0, 1)
    cheek = _bump(x - 0.21 - 0.16 * down, 0.022) * _bump(y - 6.84, 0.14)
    crow = _bump(y - 7.24 - 0.25 * (x - 0.52), 0.018) + _bump(y - 7.30 + 0.1 * (x - 0.52), 0.018)
    crow = crow * _bump(x - 0.56, 0.06)
    depth = (
        brow_pinch * intensity.get(4, 0.0)
        + forehead * 0.7 * max(intensity.get(1, 0.0), intensity.get(2, 0.0))
        + nose * intensity.get(9, 0.0)
        + cheek * 0.8 * max(intensity.get(12, 0.0), intensity.get(10, 0.0), intensity.get(9, 0.0))
        + crow * 0.6 * intensity.get(6, 0.0)
    )
    return np.clip(depth, 0, 1) * (rest[:, 2] > 0.75)


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


def beard_weight(rest: np.ndarray, style: str) -> np.ndarray:
    """Where a beard of one of ``BEARDS`` grows at rest positions (P, 3): 0 to 1."""
    x, y = np.abs(rest[:, 0]), rest[:, 1]
    moustache = np.exp(-((x / 0.30) ** 2 + ((y - 6.78) / 0.05) ** 2))
    goatee = np.exp(-((x / 0.17) ** 2 + ((y - 6.40) / 0.15) ** 2))
    jaw = smoothstep(6.93 - y, 0, 0.14) * smoothstep(y, 6.1, 6.3)
    jaw *= 1 - 0.9 * np.exp(-((x / 0.34) ** 2 + ((y - 6.65) / 0.10) ** 2))
    grown = {
        "none": np.zeros(len(rest)),
        "moustache": moustache,
        "goatee": goatee + 0.8 * moustache,
        "stubble": jaw + moustache,
        "full": jaw + moustache + 0.5 * goatee,
    }[style]
    return np.clip(grown, 0, 1)


class _Surface:
    """Albedo (P, 3) and specular weight (P,) that layers are laid on."""

    def __init__(self, albedo: np.ndarray, specular: np.ndarray) -> None:
        self.albedo, self.specular = albedo, specular

    def lay(self, colour: np.ndarray, weight: np.ndarray, shine: float) -> None:
        self.albedo = self.albedo * (1 - weight[:, None]) + colour * weight[:, None]
        self.specular = self.specular * (1 - weight) + shine * weight


def paint(
    rig: Rig, looks: Looks, noise: SolidNoise, rest: np.ndarray, uv: np.ndarray, part: np.ndarray
) -> np.ndarray:
    """Surface values (P, 6) at rest positions: albedo, specular, skin, inside of mouth."""
    c = looks
    y, z = rest[:, 1], rest[:, 2]
    fine, medium = noise(rest, 0.012), noise(rest, 0.06)
    mask = {name: sample_texture(rig.masks[name], uv) for name in rig.masks}
    body = (part == PART_NAMES.index("body")).astype(float)
    surface = _paint_skin(c, noise, rest, fine, medium, mask, body)
    inside = smoothstep(mask["inside-mouth"], 0.3, 0.8) * body
    surface.lay(np.array([0.30, 0.09, 0.09]), inside, c.shine)

    if c.beard != "none":
        grown = beard_weight(rest, c.beard) * (z > 0.45) * body * (1 - mask["lips"])
        grown = np.clip(grown * c.density * (0.8 + 0.2 * fine), 0, 1)
        surface.lay(c.hair * (1 + 0.15 * fine)[:, None], grown, 0.05)

    strands = np.clip(
        0.8 + 0.3 * np.sin(c.curls * rest[:, 0] + 0.8 * c.curls * z + 3 * medium), 0.3, 1.5
    )
    colour = c.hair * strands[:, None]
    if c.cover is not None:
        colour = c.cover * (1 + 0.05 * medium)[:, None]
    wavy = rest + np.outer(medium, [0, c.ragged, 0])
    scalp = hairline(wavy, c.hairline) * body * (1 - np.clip(2 * mask["ears"], 0, 1))
    surface.lay(colour, scalp, 0.10)
    surface.lay(colour, (part == PART_NAMES.index("hair")).astype(float), 0.10)
    x = np.abs(rest[:, 0])
    cloth = smoothstep(6.02 - 0.20 * np.abs(z - 0.4) - y + 0.12 * x, -0.01, 0.01) * body
    surface.lay(c.cloth * (1 + 0.05 * medium)[:, None], cloth, 0.05)

    _paint_eyes_and_mouth(c, rest, part, surface)
    skin = ((body > 0) & (scalp < 0.5) & (cloth < 0.5)).astype(float)
    mouth = np.isin(part, [PART_NAMES.index(n) for n in ("upper_teeth", "lower_teeth", "tongue")])
    deep = (mouth | (inside > 0.5)).astype(float)
    return np.column_stack([np.clip(surface.albedo, 0, 1), surface.specular, skin, deep])


def _paint_skin(
    c: Looks,
    noise: SolidNoise,
    rest: np.ndarray,
    fine: np.ndarray,
    medium: np.ndarray,
    mask: dict[str, np.ndarray],
    body: np.ndarray,
) -> _Surface:
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
    front = (z > 0.9).astype(float)
    coarse = noise(rest, 0.3)
    texture = 0.022 * fine + c.blotches * (0.014 * medium + 0.022 * coarse)
    albedo = c.skin * (1 + texture)[:, None]
    blush = 0.9 * np.exp(-(((x - 0.42) / 0.22) ** 2 + ((y - 6.85) / 0.22) ** 2))
    blush = (blush + 0.7 * np.exp(-((x / 0.14) ** 2 + ((y - 6.92) / 0.16) ** 2))) * front
    albedo *= 1 + blush[:, None] * np.array([0.06, -0.07, -0.06])
    socket = np.exp(-(((x - EYE[0]) / 0.17) ** 2 + ((y - 7.27) / 0.10) ** 2)) * front
    albedo *= (1 - (0.16 + 0.12 * c.wrinkles) * socket)[:, None]
    folds = furrows(rest, {1: 1.0, 4: 0.8, 6: 0.9, 12: 1.0})
    albedo *= (1 - 0.45 * c.wrinkles * folds * body)[:, None]
    spots = smoothstep(noise(rest, 0.02), 1.2, 1.8) * _bump(y - 7.0, 0.3) * front
    albedo *= 1 - c.freckles * spots[:, None] * np.array([0.25, 0.38, 0.45])
    for mole in c.moles:
        away = (rest[:, 0] - mole[0]) ** 2 + (y - mole[1]) ** 2
        albedo *= (1 - 0.6 * np.exp(-away / 0.012**2) * front)[:, None]
    surface = _Surface(albedo, np.full(len(rest), c.shine))
    lips = 0.85 * mask["lips"] * body
    colour = (1 - c.lipstick) * c.lip + c.lipstick * c.paint
    surface.lay(colour * (1 + 0.05 * medium)[:, None], lips, c.shine + 0.25)
    lid = np.exp(-(((x - EYE[0]) / 0.17) ** 2 + ((y - 7.36) / 0.05) ** 2)) * front * body
    surface.lay(c.paint[::-1] * 0.8, c.shadow * lid, c.shine)
    rim = np.exp(-(((x - EYE[0]) / 0.15) ** 2 + ((y - 7.325) / 0.016) ** 2)) * front * body
    surface.lay(np.full(3, 0.02), c.liner * rim, 0.05)

    along = (x - 0.13) / 0.38  # 0 at the inner end of the brow, 1 at the outer
    reach = np.clip(along, 0, 1)
    centre = 7.50 + c.brow_height + 0.075 * np.sin(2.2 * reach) - 0.07 * reach**2
    width = c.brow_width * np.interp(along, [-0.05, 0.1, 0.6, 1.05], [0.6, 1, 0.85, 0.15])
    brow = 1 - smoothstep(np.abs(y - centre) / width, 0.55, 1.25)
    brow *= (along > -0.05) & (along < 1.05) & (z > 0.9) & (body > 0)
    surface.lay(0.7 * c.hair, c.brow_weight * brow * np.clip(0.85 + 0.15 * fine, 0, 1), 0.0)
    return surface


def _paint_eyes_and_mouth(c: Looks, rest: np.ndarray, part: np.ndarray, surface: _Surface) -> None:
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
        surface.albedo[here] = eye * smoothstep(angle, 0.17, 0.21)[:, None] + 0.01
        surface.specular[here] = 0.9
    for name, colour in (("upper_teeth", (0.78, 0.74, 0.66)), ("lower_teeth", (0.74, 0.70, 0.62))):
        here = part == PART_NAMES.index(name)
        gap = np.abs(np.sin(13 * np.arctan2(rest[here, 0], rest[here, 2] - 1.0)))
        surface.albedo[here] = np.outer(c.teeth * (0.75 + 0.25 * smoothstep(gap, 0, 0.25)), colour)
        surface.specular[here] = 0.5
    surface.albedo[part == PART_NAMES.index("tongue")] = (0.50, 0.18, 0.18)
    lashes = part == PART_NAMES.index("lashes")
    surface.albedo[lashes] = 0.25 * c.skin * (1 - 0.7 * c.liner)
    surface.specular[lashes] = 0
