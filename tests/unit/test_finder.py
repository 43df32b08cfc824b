"""Faces of real clips and pictures; following against detecting; tracks against the truth."""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

from clipaffect.config.faces import Faces
from clipaffect.core.video import read_frames
from clipaffect.faces import tracks
from clipaffect.faces.detector import FOUND_SHARE, tiles
from clipaffect.faces.finder import FaceFinder, FaceFollower
from clipaffect.faces.landmarks import Face, Region
from clipaffect.faces.tracks import Tracker
from clipaffect.synthetic.crossing import crossing
from clipaffect.synthetic.edited import KINDS, edited
from clipaffect.synthetic.person import make_person
from clipaffect.synthetic.render import Light, Pose, express, render
from clipaffect.synthetic.rig import load_rig

RIG = ROOT / "resources/demo/head_rig.npz"


@pytest.fixture(scope="module")
def finder(face_networks: Path) -> FaceFinder:
    return FaceFinder(face_networks, Faces())


@pytest.fixture(scope="module")
def smile(real_clips: Path) -> list[np.ndarray]:
    return [frame.pixels for frame in read_frames(real_clips / "single_face.mp4")]


def test_real_faces_are_found_in_every_frame(finder: FaceFinder, smile: list[np.ndarray]) -> None:
    found = [finder(pixels) for pixels in smile]
    assert all(len(faces) == 1 for faces in found)
    points = np.array([faces[0].points for faces in found])
    distance = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)
    # Eyes above nose above mouth, and the person's right eye on the picture's left.
    assert (points[:, 0, 0] < points[:, 1, 0]).all()
    assert (points[:, :2, 1].max(1) < points[:, 2, 1]).all()
    assert (points[:, 2, 1] < points[:, 3:, 1].min(1)).all()
    jitter = np.abs(np.diff(points[:, :2], n=2, axis=0)).mean() / distance.mean()
    assert jitter < 0.03


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_is_found_upright_in_a_turned_picture(
    finder: FaceFinder, smile: list[np.ndarray], turns: int
) -> None:
    for pixels in smile[::24]:
        (upright,) = finder(pixels)
        turned = np.ascontiguousarray(np.rot90(pixels, turns))
        (face,) = finder(turned)
        # Where a point (x, y) of the picture lies after quarter turns to the left.
        points, (height, width) = upright.points, pixels.shape[:2]
        for _ in range(turns):
            points = np.stack([points[:, 1], width - points[:, 0]], 1)
            height, width = width, height
        assert np.abs(face.points - points).max() < 0.15 * upright.eye_distance
        roll = (face.pose[2] - upright.pose[2] + 90 * turns + 180) % 360 - 180
        assert abs(roll) < 8


def test_a_followed_face_is_where_a_detected_one_is(
    finder: FaceFinder, smile: list[np.ndarray]
) -> None:
    follower = FaceFollower(finder)
    for pixels in smile:
        ((number, followed),) = follower(pixels)
        (detected,) = finder(pixels)
        away = np.abs(followed.points - detected.points).max()
        assert number == 0
        assert away < 0.06 * detected.eye_distance


def test_the_detector_rests_while_a_face_is_followed(
    finder: FaceFinder, smile: list[np.ndarray]
) -> None:
    calls = []
    watched = copy.copy(finder)
    detector = finder.detector
    watched.detector = lambda *args: calls.append(len(seen)) or detector(*args)
    follower, seen = FaceFollower(watched), []
    for pixels in [*smile[:7], smile[0] * 0, smile[0] * 0, *smile[:7]]:
        seen.append(follower(pixels))
    # Every fifth frame, at once when the face is lost, and then until there is one again.
    assert calls == [0, 5, 7, 8, 9, 10, 15]
    assert [len(faces) for faces in seen] == [1] * 7 + [0, 0] + [1] * 7


def test_somebody_who_jumps_is_not_seen_twice(finder: FaceFinder, smile: list[np.ndarray]) -> None:
    """Landmarks that stay where the face was must not live on beside the face itself."""
    follower = FaceFollower(finder)
    for pixels in smile[:5]:
        follower(pixels)
    (face,) = finder(smile[5])
    for share in (0.3, 0.5, 0.7):
        jumped = np.roll(smile[5], int(share * face.box[2]), axis=1)
        found = copy.deepcopy(follower.tracker)
        other = FaceFollower(finder)
        other.tracker, other.count = found, 5  # a search is due
        assert len(other(jumped)) == 1


def test_no_face_is_found_where_there_is_none(finder: FaceFinder, real_clips: Path) -> None:
    frames = list(read_frames(real_clips / "no_face.mp4"))[::4]
    assert sum(bool(finder(frame.pixels)) for frame in frames) <= 0.01 * len(frames)


def test_detection_moves_with_the_picture(finder: FaceFinder, smile: list[np.ndarray]) -> None:
    (before,) = finder(smile[0])
    (after,) = finder(np.ascontiguousarray(smile[0][:, ::-1]))
    mirrored = before.points[[1, 0, 2, 4, 3]] * [-1, 1] + [smile[0].shape[1] - 1, 0]
    assert np.abs(after.points - mirrored).max() < 0.08 * before.eye_distance
    assert after.pose[[0, 2]] == pytest.approx(-before.pose[[0, 2]], abs=6)


@pytest.mark.parametrize("angle", [-20.0, 20.0])
def test_roll_is_the_turn_of_the_picture(
    finder: FaceFinder, smile: list[np.ndarray], angle: float
) -> None:
    (before,) = finder(smile[0])
    height, width = smile[0].shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, 1.0)
    (after,) = finder(cv2.warpAffine(smile[0], turn, (width, height)))
    assert after.pose[2] - before.pose[2] == pytest.approx(angle, abs=3)


@pytest.mark.parametrize(("yaw", "pitch"), [(0.4, 0.0), (-0.4, 0.0), (0.0, 0.3), (0.0, -0.3)])
def test_pose_is_that_of_a_rendered_head(finder: FaceFinder, yaw: float, pitch: float) -> None:
    rig = load_rig(RIG)
    person = make_person(rig, np.random.default_rng(3))

    def seen(pose: Pose) -> np.ndarray:
        grey = np.full((240, 240, 3), 0.4)
        picture = render(rig, person, express(rig, person, {}), pose, Light(), grey)
        return finder((picture * 255).astype(np.uint8))[0].pose

    # Against the head's own rest: where a face looks straight ahead is a matter of its shape.
    turned = seen(Pose(yaw=yaw, pitch=pitch)) - seen(Pose())
    assert turned[:2] == pytest.approx(np.degrees([yaw, pitch]), abs=7)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_everybody_in_a_group_is_found(finder: FaceFinder, real_clips: Path, scale: float) -> None:
    photo = cv2.cvtColor(cv2.imread(str(real_clips / "group.jpg")), cv2.COLOR_BGR2RGB)
    photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    faces = finder(photo)
    assert len(faces) == 5  # 89 to 119 px high in the photo, about 40 px at the smaller scale
    boxes = np.array([face.corners for face in faces])
    # Counted by eye in the photo, left to right, at their noses.
    noses = np.array([[263, 125], [363, 306], [477, 268], [576, 378], [735, 367]]) * scale
    inside = (noses[:, None] > boxes[None, :, :2]) & (noses[:, None] < boxes[None, :, 2:])
    assert (inside.all(2).sum(1) == 1).all()


@pytest.mark.parametrize("size", [(360, 640), (718, 1278), (1080, 1920), (90, 70)])
@pytest.mark.parametrize("smallest", [24, 40, 100])
def test_every_face_is_whole_and_large_enough_in_a_tile(
    size: tuple[int, int], smallest: int
) -> None:
    height, width = size
    squares = np.array(list(tiles(height, width, smallest)))
    rng = np.random.default_rng(0)
    for _ in range(300):
        side = rng.uniform(min(smallest, height, width), min(height, width))
        left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
        whole = (squares[:, 0] <= left + 1) & (squares[:, 1] <= top + 1)
        whole &= squares[:, 0] + squares[:, 2] >= left + side - 1
        whole &= squares[:, 1] + squares[:, 2] >= top + side - 1
        assert (side / squares[whole, 2]).max() >= 0.99 * FOUND_SHARE


def face(x: float, y: float = 50, side: float = 40) -> Face:
    middle = np.array([x, y])
    points = middle + np.array([[-8, -8], [8, -8], [0, 0], [-6, 8], [6, 8]], float)
    region = Region(middle, 1.5 * side, 0.0)
    box = np.array([x - side / 2, y - side / 2, side, side])
    return Face(box, 0.9, points, np.zeros(3), 1.0, region)


def people(*places: tuple[float, int]) -> tuple[np.ndarray, list[Face]]:
    """A picture in which everybody is a square of one brightness."""
    picture = np.zeros((100, 400, 3), np.uint8)
    for x, brightness in places:
        picture[30:70, max(int(x) - 20, 0) : int(x) + 20] = brightness
    return picture, [face(x) for x, _ in places]


def test_tracks_follow_people_through_order_changes_and_short_absence() -> None:
    tracker = Tracker()
    first = tracker.update(*people((50, 90), (250, 200)))
    assert tracker.update(*people((255, 200), (53, 90))) == first[::-1]
    for _ in range(5):
        assert tracker.update(*people((56, 90))) == [first[0]]
    assert tracker.update(*people((58, 90), (253, 200))) == first


@pytest.mark.parametrize(("brightness", "known"), [(200, True), (90, False)])
def test_somebody_who_was_long_away_is_known_by_their_looks(brightness: int, known: bool) -> None:
    tracker = Tracker()
    (first,) = tracker.update(*people((60, 200)))
    for _ in range(2 * tracks.MEMORY):
        tracker.update(*people())
    assert (tracker.update(*people((320, brightness))) == [first]) is known


@pytest.mark.parametrize("back", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_people_who_meet_keep_their_numbers(finder: FaceFinder, back: bool) -> None:
    follower = FaceFollower(finder)
    numbers: list[list[int]] = [[], []]
    for picture, truth in crossing(RIG, 60, seed=0, passes=2, back=back):
        found = follower(picture)
        if np.hypot(*(truth[0] - truth[1])) < 50:
            continue  # the one behind is hidden, or nearly
        eyes = np.array([face.points[:2].mean(0) for _, face in found])
        for person in range(2):
            away = np.hypot(*(eyes - truth[person]).T)
            if away.min() < 20:  # else somebody who was hidden has not been found again yet
                numbers[person].append(found[away.argmin()][0])
    assert [len(set(seen)) for seen in numbers] == [1, 1]
    assert numbers[0][0] != numbers[1][0]
    assert [len(seen) > 30 for seen in numbers] == [True, True]


SWITCHED = [(kind, seed) for kind in KINDS for seed in (1, 2)]
FAST = ("swap", 1)


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        pytest.param(
            *clip, marks=[] if clip == FAST else pytest.mark.slow, id=f"{clip[0]}-{clip[1]}"
        )
        for clip in SWITCHED
    ],
)
def test_people_keep_their_numbers_across_cuts(finder: FaceFinder, kind: str, seed: int) -> None:
    follower = FaceFollower(finder)
    numbers: dict[int, list[int]] = {0: [], 1: []}
    missed, shown = 0, 0
    for picture, truth in edited(RIG, kind, seed):
        found = follower(picture)
        eyes = np.array([face.points[:2].mean(0) for _, face in found]).reshape(-1, 2)
        for person, place in truth.items():
            away = np.hypot(*(eyes - place).T)
            shown += 1
            if away.size and away.min() < 12:  # no crop lies beside the face
                numbers[person].append(found[away.argmin()][0])
            else:
                missed += 1
        assert len(found) <= len(truth)
    assert missed <= 1
    assert shown > 25
    assert {person: len(set(own)) for person, own in numbers.items() if own} == {
        person: 1 for person, own in numbers.items() if own
    }
    assert not set(numbers[0]) & set(numbers[1])


def test_after_a_jump_a_face_is_not_expected_to_jump_again() -> None:
    tracker = Tracker()
    for x in (100, 102, 104, 165):
        tracker.update(*people((x, 200)))
    (region,) = tracker.expected()
    (track,) = tracker.tracks
    assert region.centre == pytest.approx(track.face.region.centre)


def test_velocity_after_an_absence_is_the_way_over_the_frames_between() -> None:
    tracker = Tracker()
    tracker.update(*people((50, 200)))
    tracker.update(*people((54, 200)))
    for _ in range(3):
        tracker.update(*people())
    tracker.update(*people((94, 200)))
    (track,) = tracker.tracks
    assert track.velocity == pytest.approx([10, 0])


def test_the_look_of_people_who_overlap_stays_as_it_was() -> None:
    tracker = Tracker()
    tracker.update(*people((100, 90), (200, 200)))
    for x in (120, 140, 160):
        tracker.update(*people((x, 90), (200, 200)))
    apart = [track.look.copy() for track in tracker.tracks]
    tracker.update(*people((175, 90), (200, 200)))
    assert len(tracker.tracks) == 2
    for track, look in zip(tracker.tracks, apart, strict=True):
        assert np.array_equal(track.look, look)


def test_one_lost_of_two_people_is_looked_for_at_once(finder: FaceFinder) -> None:
    watched, calls = copy.copy(finder), []
    detector = finder.detector
    watched.detector = lambda *args: calls.append(1) or detector(*args)
    follower = FaceFollower(watched)
    pictures = [p for p, truth in crossing(RIG, 12, seed=0, passes=1, back=False)][:3]
    for picture in pictures[:2]:
        assert len(follower(picture)) == 2
    assert len(calls) == 1
    half = pictures[2].copy()
    half[:, : half.shape[1] // 2] = 0
    follower(half)
    assert len(calls) == 2
