"""Alignment by closed form, persons by construction, rows of real clips."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import write_video
from PIL import Image, JpegImagePlugin
from scipy.optimize import least_squares

from clipaffect.config.faces import Faces
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.hashing import file_digest
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.store import Store
from clipaffect.dataset.extract_frames import extract_frames
from clipaffect.faces.align_faces import _of_crops, _plan, align_faces
from clipaffect.faces.alignment import TEMPLATE, align, crop_box, similarity
from clipaffect.faces.face_rows import detector_key
from clipaffect.faces.person_tracks import assign_persons


def transform(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.5, 3.1])
def test_similarity_recovers_a_known_one(angle: float) -> None:
    expected = transform(0.37, angle, (12.0, -3.5))
    source = np.random.default_rng(0).normal(size=(5, 2)) * 30
    target = source @ expected[:, :2].T + expected[:, 2]
    assert similarity(source, target) == pytest.approx(expected, abs=1e-10)


def test_similarity_is_the_least_squares_one() -> None:
    rng = np.random.default_rng(1)
    source = rng.normal(size=(5, 2))
    target = rng.normal(size=(5, 2))  # nothing like a similarity of the source

    def residual(p: np.ndarray) -> np.ndarray:
        a, b, x, y = p
        return (source @ np.array([[a, b], [-b, a]]) + [x, y] - target).ravel()

    a, b, x, y = least_squares(residual, np.ones(4), xtol=1e-15, ftol=1e-15, gtol=1e-15).x
    assert similarity(source, target) == pytest.approx(np.array([[a, -b, x], [b, a, y]]), abs=1e-6)


def dots(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y in points:
        cv2.circle(picture, (round(float(x)), round(float(y))), 4, (255, 255, 255), -1)
    return picture


def test_aligned_points_lie_on_the_template() -> None:
    shape = transform(150, 0.3, (130.0, 90.0))
    points = TEMPLATE @ shape[:, :2].T + shape[:, 2]
    crop = align(dots(points, (480, 360)), points, 224)
    for x, y in TEMPLATE * 224:
        assert crop[round(y), round(x)].min() > 200
    assert crop.mean() < 20


def test_cropped_box_is_centred_with_its_margin() -> None:
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[80:120, 100:160] = 255  # 60 wide, 40 high
    crop = crop_box(picture, np.array([100, 80, 60, 40.0]), margin=0.25, size=90)
    white = np.argwhere(crop[..., 0] > 127)
    assert white.min(0).tolist() == pytest.approx([25, 15], abs=1)
    assert white.max(0).tolist() == pytest.approx([64, 74], abs=1)


def columns(rows: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frame, track, x = np.array(rows, float).T
    box = np.stack([x, x * 0 + 10, x * 0 + 40, x * 0 + 40], axis=1)
    return frame.astype(int), track.astype(int), box


TWO = [(f, t, 10.0 if t == 0 else 200.0) for f in range(10) for t in (0, 1)]


def owned(rows: list[tuple[int, int, float]], persons: list[str]) -> dict[str, list[int]]:
    """Which rows belong to each person, in a picture 320 wide."""
    found = assign_persons(*columns(rows), persons, 320)
    return {person: np.flatnonzero(mask).tolist() for person, mask in found.items()}


EVEN, ODD = list(range(0, 20, 2)), list(range(1, 20, 2))


@pytest.mark.parametrize(
    ("persons", "expected"),
    [
        (["left", "right"], {"left": EVEN, "right": ODD}),
        (["right"], {"right": ODD}),
        (["left"], {"left": EVEN}),
        # A main person without a side beside one with: as some of Aff-Wild2's videos are.
        (["", "right"], {"": EVEN, "right": ODD}),
        (["", "left"], {"": ODD, "left": EVEN}),
    ],
)
def test_sides_are_told_by_place(persons: list[str], expected: dict) -> None:
    assert owned(TWO, persons) == expected


@pytest.mark.parametrize(("x", "side"), [(50.0, "left"), (240.0, "right")])
def test_a_face_that_is_always_alone_is_told_by_its_half(x: float, side: str) -> None:
    rows = [(f, 0, x) for f in range(5)]
    found = owned(rows, ["left", "right"])
    assert found.pop(side) == [0, 1, 2, 3, 4]
    assert list(found.values()) == [[]]
    assert owned(rows, [side]) == {side: [0, 1, 2, 3, 4]}


def test_the_main_person_is_the_largest_and_returns_under_a_new_track() -> None:
    rows = [(f, 0, 10.0) for f in range(6)] + [(f, 2, 20.0) for f in range(30, 34)]
    rows += [(f, 1, 200.0) for f in range(4)]  # a bystander, at the same time as track 0
    assert owned(rows, [""]) == {"": list(range(10))}


def test_no_detections_belong_to_nobody() -> None:
    assert assign_persons(np.zeros(0), np.zeros(0), np.zeros((0, 4)), [""], 320)[""].tolist() == []


def test_the_plan_has_one_row_for_every_frame_and_person() -> None:
    detections = pd.DataFrame(
        {
            "frame": [1, 1, 2, 3, 4],
            "track": [0, 1, 0, -1, -1],
            "status": ["ok", "ok", "ok", "no_face", "frame_unreadable"],
            "box": [[0, 0, 9, 9], [50, 0, 8, 8], [1, 0, 9, 9], None, None],
        }
    )
    plan = _plan(detections, ["left", "right"], 100)
    found = [(r.frame, r.person, r.status) for r in plan.itertuples()]
    assert found == [
        (1, "left", "ok"),
        (1, "right", "ok"),
        (2, "left", "ok"),
        (2, "right", "person_absent"),
        (3, "left", "no_face"),
        (3, "right", "no_face"),
        (4, "left", "frame_unreadable"),
        (4, "right", "frame_unreadable"),
    ]


@pytest.mark.parametrize("crop", ["aligned", "cropped"])
def test_rows_in_are_rows_out(
    crop: str, face_networks: Path, real_clips: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    blank = write_video(tmp_path / "blank.mp4", frames=7)
    rows = [
        ("face", real_clips / "single_face.mp4", [""]),
        ("half", real_clips / "face_noface.mov", ["left", "right"]),
        ("broken", broken, [""]),
        ("blank", blank, [""]),
        ("gone", "", ["left"]),
    ]
    manifest = pd.DataFrame(
        [
            {
                "video": v,
                "kind": "video",
                "path": str(p),
                "sha256": file_digest(Path(p)) if p else "",
                "persons": who,
                "folders": [""] * len(who),
                "frame_limit": 40,
            }
            for v, p, who in rows
        ]
    )
    write_table(tmp_path / "m.parquet", manifest)
    store = Store(tmp_path / "store")
    extract_frames(tmp_path / "m.parquet", store, tmp_path / "f.parquet")
    settings = Faces(crop=crop, size=96)

    def run(out: Path) -> pd.DataFrame:
        align_faces(
            tmp_path / "m.parquet", tmp_path / "f.parquet", settings, face_networks, store, out
        )
        return read_table(out)

    faces = run(tmp_path / "faces.parquet")
    index = read_table(tmp_path / "f.parquet")
    people = manifest.set_index("video")["persons"].map(len)
    expected = index.groupby("video").size() * people
    assert faces.groupby("video").size().to_dict() == expected.to_dict()
    assert not faces.duplicated(["video", "person", "frame"]).any()
    status = faces.groupby("video")["status"].agg(set)
    assert status["face"] == {FrameStatus.OK}
    assert status["broken"] == {FrameStatus.VIDEO_UNREADABLE}
    assert status["blank"] == {FrameStatus.NO_FACE}
    assert status["gone"] == {FrameStatus.VIDEO_MISSING}
    usable = faces["status"] == FrameStatus.OK
    assert faces["crop"].notna().equals(usable)
    jpeg = faces.loc[usable, "crop"].iloc[0]
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (96, 96, 3)
    assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(jpeg))) == 0, "4:4:4"
    # Again, from the store alone: the same bytes.
    run(tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "faces.parquet").read_bytes()


def test_a_video_that_changed_after_the_index_does_not_enter_the_store(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", frames=5)
    row = {
        "video": "v",
        "kind": "video",
        "path": str(video),
        "sha256": file_digest(video),
        "persons": [""],
        "folders": [""],
        "frame_limit": 0,
    }
    write_table(tmp_path / "m.parquet", pd.DataFrame([row]))
    store = Store(tmp_path / "store")
    content = video.read_bytes()
    for change in (video.unlink, lambda: write_video(video, frames=7)):
        change()
        with pytest.raises(UserError, match="changed or removed after it was indexed"):
            extract_frames(tmp_path / "m.parquet", store, tmp_path / "f.parquet")
    video.write_bytes(content)
    extract_frames(tmp_path / "m.parquet", store, tmp_path / "f.parquet")
    assert read_table(tmp_path / "f.parquet")["status"].tolist() == ["ok"] * 5


def test_the_margin_is_in_the_key_of_crops_that_have_one() -> None:
    cut, aligned = ({"crop": kind} for kind in ("cropped", "aligned"))
    keys = [detector_key(Faces(**cut, margin=margin)) for margin in (0.1, 0.3)]
    assert keys[0] != keys[1]
    assert detector_key(Faces(**aligned, margin=0.1)) == detector_key(Faces(**aligned, margin=0.3))


def test_every_second_image_of_a_folder_from_the_first_on(tmp_path: Path) -> None:
    for number in range(1, 8):
        (tmp_path / f"{number:05d}.jpg").write_bytes(b"x")
    rows = [
        row
        for table in _of_crops({"video": "v", "frame_limit": 0}, "", tmp_path, 2)
        for row in table.to_pylist()
    ]
    assert [row["frame"] for row in rows if row["status"] == "ok"] == [1, 3, 5, 7]
    assert [row["frame"] for row in rows if row["status"] == "not_sampled"] == [2, 4, 6]


@pytest.mark.parametrize("shrink", [2.0, 4.0])
def test_fine_detail_is_blurred_away_before_a_crop_is_shrunk(shrink: float) -> None:
    side = int(112 * shrink)
    board = (np.indices((side + 80, side + 80)).sum(axis=0) % 2 * 255).astype(np.uint8)
    points = TEMPLATE * (112 * shrink) + 40
    crop = align(np.repeat(board[..., None], 3, axis=2), points, 112)
    middle = crop[30:80, 30:80].astype(float)
    assert middle.mean() == pytest.approx(127.5, abs=3)
    assert middle.std() < 8
