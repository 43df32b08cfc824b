"""Which files of a folder are predicted, and what they are called."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS, ROOT, write_video
from hypothesis import assume, given
from hypothesis import strategies as st

from clipaffect.bundle.load import open_bundle
from clipaffect.core.names import composed, path_of, path_text, shown_name
from clipaffect.core.parquet import read_table
from clipaffect.core.video import read_frames
from clipaffect.dataset.files import scan_videos
from clipaffect.dataset.manifest import PICTURE
from clipaffect.faces import images as images_module
from clipaffect.prediction.batch import predict_files, wanted_of
from clipaffect.prediction.sources import (
    IMAGES,
    Note,
    Source,
    find_sources,
    known_files,
    manifest,
    noted_files,
    output_folders,
    remember_files,
)

NOBODY = 65534  # the user and group without any rights


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "elsewhere/v.mp4", frames=2)


def outcomes(found: list[Source]) -> dict[str, str]:
    return {source.name: str(source.outcome) for source in found}


NAMES = {
    "narrow space 9.41\u202fAM.mov": "narrow space 9.41\u202fAM.mov",
    "no-break\u00a0space.mp4": "no-break\u00a0space.mp4",
    "\u9332\u753b\u3000\u4e00.mp4": "\u9332\u753b\u3000\u4e00.mp4",
    "joined \u0645\u06cc\u200c\u062e.mp4": "joined \u0645\u06cc\u200c\u062e.mp4",
    "family \U0001f468\u200d\U0001f469.mp4": "family \U0001f468\u200d\U0001f469.mp4",
    "unassigned \U0001faef.mp4": "unassigned \U0001faef.mp4",
    "right to left \u202e4pm.mp4": "right to left \u202e4pm.mp4",
    "new\nline.mp4": "new\\nline.mp4",
    "escape \x1b[31m.mp4": "escape \\x1b[31m.mp4",
    "separator\u2028.mp4": "separator\\u2028.mp4",
    "not text \udcff.mp4": "not text \\xff.mp4",
}


def test_every_name_is_accepted_and_can_be_shown(tmp_path: Path, video: Path) -> None:
    folder = tmp_path / "My\u00a0Drive\udcfe"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(video, folder / name)
    found = find_sources([folder])
    assert outcomes(found) == dict.fromkeys(NAMES.values(), "ok")
    for source, path in zip(found, manifest(found, "all")["path"], strict=True):
        path.encode()  # text, for the table
        assert path_of(path) == source.path
        assert len(list(read_frames(path_of(path)))) == 2
    assert list(scan_videos(folder)) != []
    assert set(scan_videos(folder)) == {shown_name(Path(name).stem) for name in NAMES}


def test_two_spellings_of_an_accent_are_one_name() -> None:
    assert composed("Rene\u0301e") == composed("Ren\u00e9e") == "Ren\u00e9e"
    assert path_text(Path("a/Rene\u0301e")) == "a/Rene\u0301e"  # a path stays as it is


def test_content_tells_where_the_suffix_does_not(tmp_path: Path, video: Path) -> None:
    folder = tmp_path / "card"
    folder.mkdir()
    for name in (
        "00001.MTS",
        "VTS_01_1.VOB",
        "VID.3gp",
        "clip.qt",
        "MOV001.MOD",
        "download",
        "v.ts",
    ):
        shutil.copy(video, folder / name)
    cv2.imwrite(str(tmp_path / "p.jpg"), np.zeros((8, 8, 3), np.uint8))
    shutil.copy(tmp_path / "p.jpg", folder / "web.jfif")
    shutil.copy(tmp_path / "p.jpg", folder / "IMG_1")
    (folder / "app.ts").write_text("export const x: number = 1;\n" * 50)
    (folder / "notes.txt").write_text("mp4\n")
    (folder / "data.npy").write_bytes(np.random.default_rng(0).bytes(20_000))
    found = {source.name: (source.kind, str(source.outcome)) for source in find_sources([folder])}
    left_alone = {"app.ts", "notes.txt", "data.npy"}
    assert {name for name, (_, outcome) in found.items() if outcome == "not_media"} == left_alone
    assert {name for name, (kind, _) in found.items() if kind == "picture"} == {"web.jfif", "IMG_1"}
    # The same where it is named one by one, and in a folder of labelled videos.
    named = find_sources([path for path in folder.iterdir() if path.name not in left_alone])
    assert {s.name: (s.kind, str(s.outcome)) for s in named} == {
        name: kind for name, kind in found.items() if name not in left_alone
    }
    assert {"00001", "VID", "MOV001", "download", "v"} <= set(scan_videos(folder))


def test_what_is_not_there_has_its_row(tmp_path: Path, video: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(video, folder / "a.mp4")
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    (folder / "itself.mp4").symlink_to("itself.mp4")
    (folder / "deep/up").symlink_to(folder)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (folder / "large.mp4").write_text(pointer)
    (folder / "tracked.mp4.dvc").write_text("outs:\n- path: tracked.mp4\n")
    (folder / "a.mp4.dvc").write_text("outs:\n- path: a.mp4\n")
    assert outcomes(find_sources([folder])) == {
        "a.mp4": "ok",
        "a.mp4.dvc": "not_media",
        "deep/up": "broken_link",
        "gone.mp4": "broken_link",
        "itself.mp4": "broken_link",
        "large.mp4": "not_fetched",
        "tracked.mp4": "not_fetched",
    }
    (named,) = find_sources([folder / "gone.mp4"])
    assert named.outcome == "broken_link"


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """As another user where root runs the tests: root may read everything."""
    if os.geteuid():
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_what_may_not_be_read_has_its_row(video: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(video, folder / "a.mp4")
        secret = Path(shutil.copy(video, folder / "secret.mp4"))
        closed = folder / "closed"
        closed.mkdir()
        for path in (secret, closed):
            path.chmod(0)
        try:
            with bound_by_permissions():
                found = outcomes(find_sources([folder]))
        finally:
            closed.chmod(0o700)
    assert found == {"a.mp4": "ok", "secret.mp4": "no_permission", "closed": "no_permission"}


def test_a_name_does_not_depend_on_what_else_is_given(tmp_path: Path, video: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for person in ("P1", "P2"):
        (tmp_path / person).mkdir()
        shutil.copy(video, tmp_path / person / "session.mp4")
    shutil.copy(video, tmp_path / "P1/own.mp4")
    first, second = tmp_path / "P1", tmp_path / "P2"
    alone = find_sources([first], out)
    assert [source.name for source in alone] == ["own.mp4", "session.mp4"]
    remember_files(alone, folders(alone), out)
    # One more folder: what has been predicted keeps its name, and the new one gets another.
    both = find_sources([first, second], out)
    assert [source.name for source in both] == ["P2/session.mp4", "own.mp4", "session.mp4"]
    remember_files(both, folders(both), out)
    assert [s.name for s in find_sources([second, first], out)] == [s.name for s in both]
    assert [s.name for s in find_sources([second / "session.mp4"], out)] == ["P2/session.mp4"]
    # In an output of their own, both begin with their folder.
    fresh = [source.name for source in find_sources([first, second], tmp_path / "other")]
    assert fresh == ["P1/session.mp4", "P2/session.mp4", "own.mp4"]
    # Where the folders' names do not tell them apart either, a mark of the path does.
    (tmp_path / "again/P1").mkdir(parents=True)
    shutil.copy(video, tmp_path / "again/P1/session.mp4")
    names = [s.name for s in find_sources([first, tmp_path / "again/P1"], tmp_path / "other")]
    assert len(set(names)) == 3
    assert sorted(name.partition("~")[0] for name in names) == ["P1", "P1", "own.mp4"]


def folders(sources: list[Source]) -> dict[str, str]:
    return output_folders([source.name for source in sources])


def test_a_folder_has_no_suffix_unless_two_files_would_share_it(tmp_path: Path) -> None:
    names = {
        "interview.mp4": "interview",
        "day 2/Interview.MOV": "day 2/Interview",
        "v1.0": "v1.0",
        "twice.mp4": "twice.mp4",
        "twice.avi": "twice.avi",
        "summary.csv.mp4": "summary.csv.mp4",
        "_images.mp4": "_images.mp4",
        "of/many.mp4": "of/many",
        "of.mp4": "of.mp4",
        "copy.mp4.avi": "copy.mp4.avi",
        "bare": "bare",
        "bare.mp4": "bare.mp4",
        ".mp4": ".mp4",
        "..mp4": "..mp4",
        "...mp4": "...mp4",
        "up/..mp4": "up/..mp4",
    }
    assert output_folders(list(names)) == names
    # A file keeps its folder, and a later one of the same stem or name does not take it.
    known = [Note("twice.mp4", "twice")]
    assert output_folders(["twice.avi"], known) == {"twice.avi": "twice.avi"}
    assert output_folders(["twice.avi", "twice.mp4"], known)["twice.mp4"] == "twice"
    assert output_folders(["twice"], known)["twice"].startswith("twice~")
    # Some disks ignore case, and how an accent is written.
    assert output_folders(["Clip.MOV", "clip.mp4"]) == {n: n for n in ("Clip.MOV", "clip.mp4")}
    assert output_folders(["e\u0301.mp4"], [Note("\xe9.mov", "\xe9")]) == {
        "e\u0301.mp4": "e\u0301.mp4"
    }
    assert output_folders(["_Images.mp4"]) == {"_Images.mp4": "_Images.mp4"}
    assert output_folders(["a.mp4"], occupied=lambda folder, _: folder == "a") == {"a.mp4": "a.mp4"}
    image = Source("face.png", tmp_path / "face.png", PICTURE)
    image.path.touch()
    remember_files([image], {}, tmp_path)
    assert list(known_files(tmp_path).values()) == [Note("face.png", IMAGES)]
    assert output_folders(["face.png"], known_files(tmp_path).values()) == {"face.png": "face"}


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        (".names.json", '{"../v.mp4": "v.mp4"}', {"../v.mp4": Note("v.mp4", "v.mp4")}),
        (".files.json", '{"v.mp4": {"name": "v.mp4", "folder": "../v"}}', {}),
        (".files.json", '{"v.mp4": {"name": "v.mp4", "folder": "/v"}}', {}),
        (".files.json", "[]", {}),
        (".files.json", '{"a": "b"}', {}),
        (".files.json", '{"a": {"name": "b"}}', {}),
        (".files.json", "{", {}),
    ],
)
def test_earlier_notes_are_read_and_damaged_ones_are_not(
    tmp_path: Path, file: str, text: str, found: dict[str, Note]
) -> None:
    (tmp_path / file).write_text(text)
    assert noted_files(tmp_path) == found


def test_the_outputs_of_a_file_that_is_gone_are_not_overwritten(
    tmp_path: Path, video: Path, face_networks: Path
) -> None:
    wanted = wanted_of(open_bundle(ROOT / "tests/data/bundle-v1"), ASSETS)
    out, other = tmp_path / "out", write_video(tmp_path / "w.mp4", frames=3)
    predict_files([video], wanted, out, None, 1)
    first = (out / video.stem / "frames.csv").read_bytes()
    video.unlink()
    predict_files([other], wanted, out, None, 1)  # its note is forgotten
    again = other.rename(video.with_suffix(".mov"))
    predict_files([again], wanted, out, None, 1)
    assert (out / video.stem / "frames.csv").read_bytes() == first
    assert (out / again.name / "frames.csv").is_file()


def test_what_is_no_video_takes_nothing_from_one(
    tmp_path: Path, video: Path, face_networks: Path
) -> None:
    wanted = wanted_of(open_bundle(ROOT / "tests/data/bundle-v1"), ASSETS)
    out, folder = tmp_path / "out", tmp_path / "set"
    folder.mkdir()
    shutil.copy(video, folder / "clip.mp4")
    (folder / "clip").write_text("notes")
    for _ in range(2):
        predict_files([folder], wanted, out, None, 1)
        assert (out / "clip/frames.csv").is_file()


@given(st.lists(st.from_regex(r"(a|b\.mp4|a\.avi)(/(a|\.)(\.mp4|\.mov)?){0,2}", fullmatch=True)))
def test_no_two_files_share_a_folder(names: list[str]) -> None:
    names = list(dict.fromkeys(names))
    assume(not set(names) & {str(p) for name in names for p in Path(name).parents})
    found = output_folders(names)
    assert len(set(found.values())) == len(names)
    assert all(name.startswith(folder) for name, folder in found.items())
    assert not set(found.values()) & {str(p) for own in found.values() for p in Path(own).parents}


def test_a_name_of_the_outputs_own_stops_nothing(tmp_path: Path, video: Path) -> None:
    folder = tmp_path / "set"
    for name in ("_images/a.mp4", "index.html/b.mp4", "c.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / name)
    names = [source.name for source in find_sources([folder])]
    assert names == ["c.mp4", "set/_images/a.mp4", "set/index.html/b.mp4"]


def test_a_file_that_links_lead_to_twice_is_predicted_once(tmp_path: Path, video: Path) -> None:
    folder = tmp_path / "set"
    (folder / "sub/deep").mkdir(parents=True)
    shutil.copy(video, folder / "sub/deep/v.mp4")
    (folder / "a link").symlink_to("sub")
    assert [source.name for source in find_sources([folder])] == ["sub/deep/v.mp4"]


def test_a_renamed_video_leaves_one_folder(
    tmp_path: Path, video: Path, face_networks: Path
) -> None:
    wanted = wanted_of(open_bundle(ROOT / "tests/data/bundle-v1"), ASSETS)
    out = tmp_path / "out"
    other = write_video(tmp_path / "elsewhere/other.mp4", frames=3)
    predict_files([video, other], wanted, out, None, 1)
    moved = video.rename(video.with_name("renamed.mp4"))
    other.unlink()  # its answers stay: nothing has taken their place
    predict_files([moved], wanted, out, None, 1)
    assert sorted(path.parent.name for path in out.glob("*/frames.csv")) == ["other", "renamed"]


def test_one_more_image_leaves_the_answers_of_the_others(
    tmp_path: Path, real_clips: Path, face_networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [frame.pixels for frame in read_frames(real_clips / "single_face.mp4")][::24]
    for k, pixels in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.ascontiguousarray(pixels[:, :, ::-1]))
    images = [tmp_path / f"{k}.png" for k in range(3)]
    wanted = wanted_of(open_bundle(ROOT / "tests/data/bundle-v1"), ASSETS)
    at_once = predict_files(images, wanted, tmp_path / "at once", None, 1)
    table = read_table(tmp_path / "at once/_images/frames.parquet")
    looked_at: list[str] = []
    found = images_module._faces
    monkeypatch.setattr(
        images_module, "_faces", lambda path, *rest: looked_at.append(path) or found(path, *rest)
    )
    out = tmp_path / "out"
    predict_files([images[0], images[2]], wanted, out, None, 1)
    summary = predict_files(images, wanted, out, None, 1)
    assert [Path(path).name for path in looked_at] == ["0.png", "2.png", "1.png"]
    pd.testing.assert_frame_equal(summary, at_once)
    pd.testing.assert_frame_equal(read_table(out / "_images/frames.parquet"), table)
    text = (out / "_images/frames.csv").read_text()
    assert text == (tmp_path / "at once/_images/frames.csv").read_text()
    # One less: the others' rows stay.
    predict_files(images[:2], wanted, out, None, 1)
    fewer = read_table(out / "_images/frames.parquet")
    pd.testing.assert_frame_equal(fewer, table[table["video"] != "2.png"].reset_index(drop=True))
    assert len(looked_at) == 3
