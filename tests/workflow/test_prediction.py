"""Prediction: evaluation's own scores, every frame, every file, through kills and bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import (
    ASSETS,
    MICRO,
    ROOT,
    asset,
    copy_of,
    environment,
    result_files,
    snakemake,
    write_video,
)

import clipaffect
from clipaffect.bundle.export import export_model
from clipaffect.bundle.load import open_bundle
from clipaffect.errors import UserError
from clipaffect.evaluation.folds import read_scores
from clipaffect.prediction.run import is_failure, predict_files, wanted_of
from clipaffect.prediction.sources import Source, manifest
from clipaffect.prediction.work import predicted
from clipaffect.store import Store
from clipaffect.tables import read_frame

VIDEOS = ROOT / "resources/demo/videos"


@pytest.fixture(scope="session")
def bundle(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro run's heads, exported."""
    out = tmp_path_factory.mktemp("exported") / "model"
    export_model(micro_run / "results/micro", ASSETS, out)
    return out


def predict(*words: object, check: bool = True) -> subprocess.CompletedProcess:
    """``clipaffect predict``."""
    command = [sys.executable, "-m", "clipaffect", "predict", *map(str, words),
               "--assets", str(ASSETS)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def answered(bundle: Path, out: Path, *inputs: Path, **asked: Any) -> pd.DataFrame:
    """The same, within this process: its summary."""
    wanted = wanted_of(open_bundle(bundle), ASSETS, **asked)
    return predict_files(list(inputs), wanted, out, None, 1)


def validation_videos(run: Path) -> list[str]:
    """Videos of one annotated person that heads were scored on."""
    manifests = sorted((run / "results/micro/dataset/manifests").glob("*.parquet"))
    listed = pd.concat([read_frame(path) for path in manifests])
    alone = set(listed["video"][listed["persons"].map(list).map(lambda names: names == [""])])
    rows = read_frame(run / "results/micro/evaluation/EXPR/rows.parquet", ["video"])
    return sorted(alone & set(rows["video"]))


def file_of(video: str) -> Path:
    return next(VIDEOS.rglob(f"{video}.mp4"))


def frames_in(path: Path) -> int:
    """Counted by the decoder alone."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_frame_gets_the_very_scores_that_evaluation_gave_it(
    micro_run: Path, bundle: Path, tmp_path: Path
) -> None:
    videos = validation_videos(micro_run)
    assert videos
    out = tmp_path / "out"
    answered(bundle, out, *map(file_of, videos), people="main", heads=True)
    for task in ("EXPR", "AU"):
        evaluated, scores = read_scores(
            micro_run / f"results/micro/evaluation/{task}/scores.parquet",
            method="head", variant="", alpha=0.5,
        )  # fmt: skip
        targets = clipaffect.load_model(bundle, assets=ASSETS).tasks[task]
        compared = 0
        for video in videos:
            found = read_frame(out / f"{video}.mp4/frames.parquet").set_index("frame")
            for seed in (0, 1):
                own = ((evaluated["video"] == video) & (evaluated["seed"] == seed)).to_numpy()
                columns = [f"{task}_{target}_seed{seed}" for target in targets]
                mine = found.loc[evaluated["frame"][own], columns].to_numpy(np.float32)
                assert mine.tobytes() == scores[own].astype(np.float32).tobytes()
                compared += len(mine)
        assert compared > 100


def radius(step: dict) -> int:
    """How many frames to a side a smoothing looks."""
    width = step["choice"]["width"]
    return int(4 * width + 0.5) if step["choice"]["kind"] == "gaussian" else int(width) // 2


def test_behind_the_steps_they_are_the_same_too(
    micro_run: Path, bundle: Path, tmp_path: Path
) -> None:
    """But where smoothing reaches a frame that is not annotated, which the evaluation has not."""
    opened = open_bundle(bundle)
    wanted = wanted_of(opened, ASSETS, people="main")
    averaged = []
    for task in ("EXPR", "AU"):
        folder = micro_run / f"results/micro/postprocess/{task}"
        steps = {s["step"]: s for s in json.loads((folder / "choices.json").read_text())["steps"]}
        assert [step.step for step in opened.bundle.tasks[task].steps] == list(steps)
        averaged += steps["average_encoders"]["choice"]["with"]
        evaluated, scores = read_scores(folder / "scores.parquet")
        compared = 0
        for video in validation_videos(micro_run):
            path = file_of(video)
            own = (evaluated["video"] == video).to_numpy()
            there = evaluated["frame"][own].to_numpy()
            listed = manifest([Source(path.name, path, "video")], "main")
            with predicted(listed, wanted, Store(tmp_path / "store"), tmp_path / "work") as found:
                frames = found.rows["frame"].to_numpy()[found.at >= 0]
                others = np.setxor1d(frames, there)
                near = np.abs(there[:, None] - others).min(axis=1, initial=10**6)
                kept = near > radius(steps["smooth"])
                final = found.answers[task].final[np.searchsorted(frames, there[kept])]
            expected = scores[own][kept].astype(np.float32)
            assert final.astype(np.float32).tobytes() == expected.tobytes()
            compared += int(kept.sum())
        assert compared > 20
    assert "pixels" in averaged  # whose heads are in the bundle as well


@pytest.fixture
def mixed(tmp_path: Path, real_clips: Path) -> Path:
    """A folder of everything that people have."""
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(real_clips / "face_noface.mov", folder / "deep/Face & <b>.mov")
    shutil.copy(real_clips / "group.jpg", folder)
    shutil.copy(file_of("2-25-426x240"), folder / "a.mp4")
    write_video(folder / "nobody.mp4", frames=30)
    write_video(folder / "one.mp4", frames=1)
    (folder / "empty.mp4").touch()
    (folder / "truncated.mp4").write_bytes((folder / "a.mp4").read_bytes()[:3000])
    (folder / "text.mp4").write_text("not a video")
    (folder / "notes.txt").write_text("x")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "new\nline.mp4").write_bytes((folder / "one.mp4").read_bytes())
    (folder / ".hidden.mp4").touch()
    os.mkfifo(folder / "pipe.mp4")
    return folder


OUTCOMES = {
    "a.mp4": "ok", "broken.jpg": "image_unreadable", "deep/Face & <b>.mov": "ok",
    "empty.mp4": "video_empty", "group.jpg": "ok", "new\\x0aline.mp4": "bad_name",
    "nobody.mp4": "ok", "notes.txt": "not_media", "one.mp4": "ok", "pipe.mp4": "not_media",
    "text.mp4": "video_unreadable", "truncated.mp4": "video_unreadable",
}  # fmt: skip


def test_every_file_has_its_outcome_and_every_frame_its_row(
    bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = predict(mixed, "--model", bundle, "--out", out, "--jobs", "2", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    summary = pd.read_csv(out / "summary.csv", keep_default_na=False).set_index("file")
    assert summary["outcome"].to_dict() == OUTCOMES
    assert (summary.loc[summary["outcome"] != "ok", "message"] != "").all()
    for name in ("a.mp4", "deep/Face & <b>.mov", "nobody.mp4", "one.mp4"):
        rows = read_frame(out / name / "frames.parquet")
        count = frames_in(mixed / name)
        assert rows["frame"].drop_duplicates().tolist() == list(range(1, count + 1))
        assert summary.loc[name, "frames"] == count
        assert rows.duplicated(["frame", "person"]).sum() == 0
        answered = rows["status"] == "ok"
        assert rows["EXPR"].notna().equals(answered)
        assert rows["person"].notna().equals(answered)
        text = pd.read_csv(out / name / "frames.csv")
        assert text.columns.tolist() == rows.columns.tolist()
        assert len(text) == len(rows)
        close = np.isclose(text["AU_AU12"], rows["AU_AU12"], equal_nan=True)
        assert close.all()
    half = read_frame(out / "deep/Face & <b>.mov/frames.parquet")
    assert {"ok", "no_face"} <= set(half["status"])
    assert (read_frame(out / "nobody.mp4/frames.parquet")["status"] == "no_face").all()
    group = read_frame(out / "_images/frames.parquet")
    assert (group["video"] == "group.jpg").sum() == summary.loc["group.jpg", "people"] == 5
    # The pages name the odd file as text, never as markup.
    assert "<b>.mov" not in (out / "index.html").read_text()
    named = pd.read_csv(out / "columns.csv")
    assert named["column"].tolist() == half.columns.tolist()
    assert named["meaning"].notna().all()
    assert not (out / ".work").exists()


def test_probabilities_decisions_and_thresholds_agree(
    bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answered(bundle, out, mixed / "a.mp4")
    rows = read_frame(out / "a.mp4/frames.parquet")
    stated = json.loads((bundle / "bundle.json").read_text())["tasks"]
    classes = [f"EXPR_{target}" for target in stated["EXPR"]["targets"]]
    assert rows[classes].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    prior = stated["EXPR"]["steps"][-1]["choice"]
    shifted = np.log(rows[classes].to_numpy()) - prior["tau"] * np.log(prior["prior"])
    best = np.array(stated["EXPR"]["targets"])[shifted.argmax(axis=1)]
    assert (rows["EXPR"].astype(str) == best).mean() > 0.99  # float32 decides ties otherwise
    for target, limit in zip(
        stated["AU"]["targets"], stated["AU"]["steps"][-1]["choice"]["thresholds"], strict=True
    ):
        column = f"AU_{target}"
        assert rows[f"{column}_threshold"].to_numpy() == pytest.approx(limit, abs=1e-6)
        clear = (rows[column] - limit).abs() > 1e-5
        shown = rows[f"{column}_shown"].astype(bool)
        assert shown[clear].equals((rows[column] >= limit)[clear])


def test_processes_and_a_second_call_change_nothing(
    bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    files = [mixed / "a.mp4", mixed / "nobody.mp4", mixed / "group.jpg"]
    predict(*files, "--model", bundle, "--out", tmp_path / "two", "--jobs", "2")
    answered(bundle, tmp_path / "one", *files)
    first = result_files(tmp_path / "one")
    assert first == result_files(tmp_path / "two")
    page = tmp_path / "one/a.mp4/frames.csv"
    before = page.stat().st_mtime_ns
    answered(bundle, tmp_path / "one", *files)
    assert page.stat().st_mtime_ns == before
    assert result_files(tmp_path / "one") == first
    answered(bundle, tmp_path / "one", *files, people="main")  # another question
    assert page.stat().st_mtime_ns > before


def started(*words: object, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "clipaffect", "predict", *map(str, words),
               "--assets", str(ASSETS)]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_prediction_goes_on_within_its_video(
    bundle: Path, real_clips: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.mp4"
    repeat(real_clips / "laughing.mp4", long, 1010)
    words = (long, "--model", bundle, "--out", tmp_path / "out")
    with started(*words, folder=tmp_path) as process:
        wait_until(lambda: list(tmp_path.glob("out/.work/*/store/detections/*/*.part/*.npz")))
        os.killpg(process.pid, signal.SIGKILL)
    (part,) = tmp_path.glob("out/.work/*/store/detections/*/*.part/part-000000.parquet")
    before = part.stat().st_mtime_ns
    with started(*words, folder=tmp_path) as process:
        # The first part is read, not made again, while the second is being made.
        wait_until(lambda: list(tmp_path.glob("out/.work/*/store/detections/*/*.part/*01.npz")))
        assert part.stat().st_mtime_ns == before
        assert process.wait(120) == 0
    answered(bundle, tmp_path / "whole", long)
    assert result_files(tmp_path / "out") == result_files(tmp_path / "whole")


def test_a_killed_call_leaves_nobody_behind(bundle: Path, real_clips: Path, tmp_path: Path) -> None:
    """Its worker processes end with it, and the folder is free for the next call."""
    for name in ("a", "b"):
        repeat(real_clips / "laughing.mp4", tmp_path / f"in/{name}.mp4", 1010)
    words = (tmp_path / "in", "--model", bundle, "--out", tmp_path / "out", "--jobs", 2)
    with started(*words, folder=tmp_path) as process:
        wait_until(lambda: list(tmp_path.glob("out/.work/*/store/detections/*/*.part")))
        with pytest.raises(UserError, match="another call is writing there"):
            answered(bundle, tmp_path / "out", tmp_path / "in/a.mp4")
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert len(family) >= 2
    _, left = psutil.wait_procs(family, 15)
    assert not left


def test_a_folder_of_somebody_elses_is_no_place_for_a_bundle(
    micro_run: Path, bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "mine")
    export_model(micro_run / "results/micro", ASSETS, folder)  # an earlier bundle is replaced
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no bundle"):
        export_model(micro_run / "results/micro", ASSETS, folder)
    assert (folder / "thesis.tex").read_text() == "years of work"


def repeat(source: Path, out: Path, frames: int) -> None:
    """An H.264 file of the source's frames over and over, at 160x90."""
    with av.open(str(source)) as video:
        small = [f.reformat(160, 90, "yuv420p").to_ndarray() for f in video.decode(video=0)]
    out.parent.mkdir(exist_ok=True)
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(small[number % len(small)], "yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_file_that_is_being_written_is_said_to_be(bundle: Path, tmp_path: Path) -> None:
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
        summary = answered(bundle, tmp_path / "out", growing)
    finally:
        stop.set()
        writer.join()
    assert summary["outcome"].tolist() == ["video_changed"]
    assert is_failure(summary)
    assert not (tmp_path / "out/growing.mkv").exists()
    assert answered(bundle, tmp_path / "out", growing)["outcome"].tolist() == ["ok"]


@pytest.fixture
def nobody() -> Iterator[None]:
    """As a user whom permissions bind."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_a_file_that_may_not_be_read_is_said_to_be(
    bundle: Path, tmp_path: Path, nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipaffect.outcomes import Outcome
    from clipaffect.prediction.sources import find_sources

    os.seteuid(0)  # to write what the other may not read
    secret = write_video(tmp_path / "secret/secret.mp4")
    secret.chmod(0o600)
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == "root" and path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    if os.getegid() == 65534:
        os.seteuid(65534)
    (source,) = find_sources([tmp_path / "secret"])
    assert source.outcome == Outcome.NO_PERMISSION
    os.seteuid(0)
    (tmp_path / "secret").chmod(0o700)


def test_nowhere_to_write_and_a_full_disk_are_said(
    bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="nothing can be written there"):
        answered(bundle, tmp_path / "file/x", mixed / "a.mp4")
    with pytest.raises(UserError, match="in a folder of the input"):
        answered(bundle, mixed / "out", mixed)
    small = tmp_path / "small"
    small.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small))
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        done = predict(mixed / "a.mp4", "--model", bundle, "--out", small / "out", check=False)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "the disk is full" in done.stderr
        assert "finished files stay" in done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_workflow_predicts_the_same(
    micro_run: Path, bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    folder = copy_of(micro_run, tmp_path)
    (mixed / "pipe.mp4").unlink()
    asked = f"prediction={{videos: [{mixed}], shards: 1}}"
    snakemake(folder, "predict", *MICRO, "--config", asked)
    made = folder / "results/micro/prediction"
    answered(bundle, tmp_path / "out", mixed)
    theirs, mine = (pd.read_csv(path / "summary.csv") for path in (made, tmp_path / "out"))
    pd.testing.assert_frame_equal(theirs, mine)
    assert (folder / "results/micro/model/bundle.json").read_bytes() == (
        bundle / "bundle.json"
    ).read_bytes()
    for name in ("a.mp4", "deep/Face & <b>.mov"):
        (there,) = made.glob(f"*/{name}/frames.csv")
        assert there.read_bytes() == (tmp_path / "out" / name / "frames.csv").read_bytes()
    again = snakemake(folder, "--dry-run", "predict", *MICRO, "--config", asked)
    assert "Nothing to be done" in again.stdout


def test_python_gives_the_same_frame(bundle: Path, mixed: Path, tmp_path: Path) -> None:
    asset("face-networks")
    model = clipaffect.load_model(bundle, assets=ASSETS)
    found = model.predict(mixed / "a.mp4")
    answered(bundle, tmp_path / "out", mixed / "a.mp4")
    pd.testing.assert_frame_equal(found, read_frame(tmp_path / "out/a.mp4/frames.parquet"))
    group = model.predict_image(mixed / "group.jpg")
    assert group["person"].tolist() == [1, 2, 3, 4, 5]
    widths = group["box_width"].to_numpy()
    assert widths.argmax() == 0
