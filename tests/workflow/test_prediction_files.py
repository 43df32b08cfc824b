"""Every file that is asked about has its outcome; what cannot be read or written is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS, write_video
from predicting import answered, file_of, predict

from clipaffect.bundle.export_model import export_model
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.prediction.batch import is_failure

OUTCOMES = {
    "a.mp4": "ok",
    "broken.jpg": "image_unreadable",
    "deep/Face & <b>.mov": "ok",
    "empty.mp4": "video_empty",
    "group.jpg": "ok",
    "new\\nline.mp4": "ok",
    "nobody.mp4": "ok",
    "notes.txt": "not_media",
    "one.mp4": "ok",
    "pipe.mp4": "not_media",
    "text.mp4": "video_unreadable",
    "truncated.mp4": "video_unreadable",
}


def frames_in(path: Path) -> int:
    """Counted by the decoder alone."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_every_file_has_its_outcome_and_every_frame_its_row(
    micro_bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = predict(mixed, "--model", micro_bundle, "--out", out, "--jobs", "2", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    summary = pd.read_csv(out / "summary.csv", keep_default_na=False).set_index("file")
    assert summary["outcome"].to_dict() == OUTCOMES
    assert (summary.loc[summary["outcome"] != "ok", "message"] != "").all()
    for name in ("a.mp4", "deep/Face & <b>.mov", "nobody.mp4", "one.mp4"):
        folder = (out / name).with_suffix("")
        rows = read_table(folder / "frames.parquet")
        count = frames_in(mixed / name)
        assert rows["frame"].drop_duplicates().tolist() == list(range(1, count + 1))
        assert summary.loc[name, "frames"] == count
        assert rows.duplicated(["frame", "person"]).sum() == 0
        answered = rows["status"] == "ok"
        assert rows["EXPR"].notna().equals(answered)
        assert rows["person"].notna().equals(answered)
        text = pd.read_csv(folder / "frames.csv")
        assert text.columns.tolist() == rows.columns.tolist()
        assert len(text) == len(rows)
        close = np.isclose(text["AU_AU12"], rows["AU_AU12"], equal_nan=True)
        assert close.all()
    half = read_table(out / "deep/Face & <b>/frames.parquet")
    assert {"ok", "no_face"} <= set(half["status"])
    assert (read_table(out / "nobody/frames.parquet")["status"] == "no_face").all()
    group = read_table(out / "_images/frames.parquet")
    assert (group["video"] == "group.jpg").sum() == summary.loc["group.jpg", "people"] == 5
    # The pages name the odd file as text, never as markup.
    assert "<b>.mov" not in (out / "index.html").read_text()
    named = pd.read_csv(out / "columns.csv")
    assert named["column"][named["table"] == "frames"].tolist() == half.columns.tolist()
    assert named["meaning"].notna().all()
    check_tables_of_all_files(out)
    assert not (out / ".work").exists()


def check_tables_of_all_files(out: Path) -> None:
    """Against the tables of the single files, with pandas alone."""
    every = pd.concat([read_table(path) for path in sorted(out.rglob("*/frames.parquet"))])
    found = read_table(out / "all_frames.parquet")
    keys = ["video", "frame", "person"]
    assert len(found) == len(every) == len(pd.read_csv(out / "all_frames.csv"))
    assert found.columns.tolist() == every.columns.tolist()
    columns = [*keys, "EXPR", "AU_AU12", "AU_AU12_shown"]
    pd.testing.assert_frame_equal(
        found[columns].astype({"EXPR": object}).sort_values(keys, ignore_index=True),
        every[columns].astype({"EXPR": object}).sort_values(keys, ignore_index=True),
    )
    people = pd.read_csv(out / "people.csv", keep_default_na=False, na_values={"time": [""]})
    known = every[every["status"] == "ok"]
    assert len(people) == len(every[every["person"].notna()][["video", "person"]].drop_duplicates())
    for row in people.itertuples():
        own = known[(known["video"] == row.video) & (known["person"] == row.person)]
        assert row.frames_with_face == len(own)
        assert row.EXPR_Happiness_share == pytest.approx(
            (own["EXPR"] == "Happiness").mean(), abs=1e-6
        )
        assert row.AU_AU12_share == pytest.approx(own["AU_AU12_shown"].mean(), abs=1e-6)
        assert row.AU_AU12_mean == pytest.approx(own["AU_AU12"].mean(), abs=1e-6)
        assert row.EXPR_Happiness_peak == pytest.approx(own["EXPR_Happiness"].max(), abs=1e-6)


def test_landmarks_and_overlay_are_of_the_same_frames(micro_bundle: Path, tmp_path: Path) -> None:
    video = file_of("10-25-640x360")
    answered(micro_bundle, tmp_path, video, landmarks=True, overlay=True)
    out = tmp_path / video.stem
    rows = read_table(out / "frames.parquet").dropna(subset="person")
    mesh = read_table(out / "landmarks.parquet")
    both = rows.merge(mesh, on=["frame", "person"], validate="one_to_one")
    assert len(both) == len(rows) == len(mesh)
    x, y = np.stack(both["x"].tolist()), np.stack(both["y"].tolist())
    assert x.shape == (len(rows), 468)
    # FaceMesh's numbers of the nose tip and the mouth's corners, found again in the same picture.
    for point, number in (("nose", 1), ("mouth_right", 61), ("mouth_left", 291)):
        apart = np.hypot(x[:, number] - both[f"{point}_x"], y[:, number] - both[f"{point}_y"])
        assert np.median(apart / both["eye_distance"]) < 0.05
    with av.open(str(video)) as before, av.open(str(out / "overlay.mp4")) as after:
        pairs = list(zip(before.decode(video=0), after.decode(video=0), strict=True))
    row = rows.iloc[len(rows) // 2]
    old, new = pairs[int(row["frame"]) - 1]
    assert (new.width, new.height) == (old.width, old.height)
    assert [b.time for _, b in pairs] == pytest.approx([a.time for a, _ in pairs], abs=1e-3)
    one, other = (frame.to_ndarray(format="rgb24").astype(int) for frame in (old, new))
    left, top = int(row["box_left"]), int(row["box_top"])
    edge = np.s_[top + 10 : top + 30, left - 1 : left + 2]
    assert other[edge].mean() > one[edge].mean() + 30  # a white line
    inside = np.s_[top + 20 : top + 40, left + 10 : left + 30]
    assert np.abs(other[inside] - one[inside]).mean() < 8  # the face itself


def test_a_copy_with_people_is_not_made_without_pictures(
    micro_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="pictures are switched off"):
        answered(micro_bundle, tmp_path, file_of("10-25-640x360"), overlay=True, pictures=False)


def test_the_users_columns_stand_next_to_every_frame(micro_bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("file,condition\n10-25-640x360,film\n")
    out = tmp_path / "out"
    answered(micro_bundle, out, file_of("10-25-640x360"), groups=table)
    for name in ("all_frames.csv", "people.csv"):
        assert set(pd.read_csv(out / name)["condition"]) == {"film"}
    named = pd.read_csv(out / "columns.csv")
    assert set(named["table"][named["column"] == "condition"]) == {"all_frames", "people"}
    table.write_text("file,condition\n11-25-640x360,film\n")
    with pytest.raises(UserError, match="not among the files to predict, such as 11-25-640x360"):
        answered(micro_bundle, out, file_of("10-25-640x360"), groups=table)


def test_a_folder_of_somebody_elses_is_no_place_for_a_bundle(
    micro_run: Path, micro_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(micro_bundle, tmp_path / "mine")
    export_model(micro_run / "results/micro", ASSETS, folder)  # an earlier bundle is replaced
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a bundle"):
        export_model(micro_run / "results/micro", ASSETS, folder)
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_a_file_that_is_being_written_is_said_to_be(micro_bundle: Path, tmp_path: Path) -> None:
    growing = tmp_path / "growing.mkv"
    write_video(growing, frames=200, size=(320, 240))
    stop = threading.Event()

    def write() -> None:
        with growing.open("ab") as file:
            while not stop.is_set():
                file.write(b"\0" * 100)
                file.flush()
                time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        summary = answered(micro_bundle, tmp_path / "out", growing)
    finally:
        stop.set()
        writer.join()
    assert summary["outcome"].tolist() == ["video_changed"]
    assert is_failure(summary)
    assert not (tmp_path / "out/growing.mkv").exists()
    assert answered(micro_bundle, tmp_path / "out", growing)["outcome"].tolist() == ["ok"]


def test_nowhere_to_write_and_a_full_disk_are_said(
    micro_bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the output folder is not writable"):
        answered(micro_bundle, tmp_path / "file/x", mixed / "a.mp4")
    with pytest.raises(UserError, match="inside an input folder"):
        answered(micro_bundle, mixed / "out", mixed)
    small = tmp_path / "small"
    small.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small))
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        done = predict(
            mixed / "a.mp4", "--model", micro_bundle, "--out", small / "out", check=False
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert "the disk is full" in done.stderr
        assert "finished files are kept" in done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)
