"""The organisers' crops in place of videos, a test list, gaps: the whole chain from image files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, clipaffect, snakemake, workplace

from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import AU, EXPR
from clipaffect.dataset.readers.aff_wild2 import FOLDERS, folder_name
from clipaffect.submission.check_submission import check_submission

RESULTS = Path("results/micro")


def write_crops(run: Path, roots: list[Path]) -> dict[str, int]:
    """The crops of a finished run as image files, dealt to several roots; images by folder."""
    counts: dict[str, int] = {}
    for shard in sorted((run / RESULTS / "faces").glob("*.parquet")):
        rows = read_table(shard, ["video", "person", "frame", "status", "crop"])
        for row in rows[rows["status"] == "ok"].itertuples():
            name = folder_name(row.video, row.person)
            folder = roots[len(name) % len(roots)] / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row.frame:05d}.jpg").write_bytes(row.crop)
            counts[name] = counts.get(name, 0) + 1
    return counts


def config_of_crops(roots: list[str], **data: object) -> dict:
    config = yaml.safe_load((ROOT / "tests/config/micro.yaml").read_text())
    config["data"] = {
        "images": roots,
        "annotations": "annotations",
        "shards": 2,
        "licensed": True,
    } | data
    # the encoder that starts fastest: what is tested here is not its score
    config |= {"encoder": "pixels", "encoders": {"pixels": config["encoders"]["pixels"]}}
    config["postprocess"] = {"folds": 2}
    config["submission"] = {"entries": {"heads": {"steps": "head"}, "erm": {"alpha": 1.0}}}
    return config


@pytest.fixture(scope="module")
def crops_run(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the micro run's crops; its two roots, a test list and a sample file."""
    folder = workplace(tmp_path_factory.mktemp("crops") / "run")
    roots = [folder / "data/cropped_aligned/batch1", folder / "data/cropped_aligned_new_50_vids"]
    counts = write_crops(micro_run, roots)
    annotations = folder / "annotations"
    shutil.copytree(ROOT / "tests/data/clips/annotations", annotations)
    for path in annotations.rglob("*.txt"):
        if path.stem not in counts:
            path.unlink()
    names = sorted(counts)
    (folder / "videos.txt").write_text("\n".join(names[:2]) + "\n")
    sample = ["image_location," + AU.header]
    sample += [f"{name}/{frame:05d}.jpg" for name in names[:2] for frame in range(1, 200)]
    sample += [f"nobody/{frame:05d}.jpg" for frame in (1, 2)]
    (folder / "sample.txt").write_text("\n".join(sample) + "\n")
    test = {"EXPR": "videos.txt", "AU": "sample.txt"}
    shown = ["data/cropped_aligned", "data/cropped_aligned_new_50_vids"]
    (folder / "crops.yaml").write_text(yaml.safe_dump(config_of_crops(shown, test=test)))
    snakemake(folder, "--configfile", "crops.yaml")
    return folder


def test_crops_give_the_very_table_of_the_videos_they_were_cut_from(
    micro_run: Path, crops_run: Path
) -> None:
    for task in ("EXPR", "AU"):
        folders = [run / RESULTS / "tables/pixels" / task for run in (micro_run, crops_run)]
        features = [(folder / "features.npy").read_bytes() for folder in folders]
        assert features[0] == features[1]
        cut, given = (read_table(folder / "rows.parquet") for folder in folders)
        pd.testing.assert_frame_equal(cut.drop(columns="status"), given.drop(columns="status"))
        # a frame without a face is one without an image
        gone = {"no_face": "no_image", "person_absent": "no_image"}
        behind = (given["status"] == "beyond_video") & (cut["status"] != "ok")
        expected = cut["status"].replace(gone).mask(behind, "beyond_video")
        assert (given["status"] == expected).all()


def test_no_network_is_needed_for_crops(crops_run: Path) -> None:
    plan = snakemake(crops_run, "--dry-run", "--forceall", "--configfile", "crops.yaml").stdout
    assert "align_faces" in plan
    assert "fetch_asset" not in plan


def test_submissions_cover_every_row(crops_run: Path) -> None:
    folder = crops_run / RESULTS / "submission"
    found = check_submission(folder / "AU/predictions.txt", AU, crops_run / "sample.txt")
    assert (found.rows, found.people) == (2 * 199 + 2, 3)
    coverage = json.loads((folder / "AU/coverage.json").read_text())
    assert coverage["rows_with_constant_answer"] == 2
    own, filled = coverage["rows_with_own_crop"], coverage["rows_filled"]
    assert own + filled == 2 * 199
    assert coverage["heads"] == {"pixels": ["alpha=0.5,seed=0", "alpha=0.5,seed=1"]}
    assert coverage["heads_trained_on"] == "training people"
    chosen = json.loads((crops_run / RESULTS / "postprocess/AU/choices.json").read_text())
    assert coverage["steps"] == chosen["final"]
    assert [row["step"] for row in coverage["steps"]] == [
        "average_seeds",
        "smooth",
        "temperature",
        "adjust",
    ]
    for entry, alpha in (("heads", 0.5), ("erm", 1.0)):
        own = json.loads((folder / "AU" / entry / "coverage.json").read_text())
        assert own["steps"] == []
        assert own["heads"] == {"pixels": [f"alpha={alpha:g},seed={seed}" for seed in (0, 1)]}
        assert check_submission(folder / "AU" / entry / "predictions.txt", AU).rows == found.rows
    # a list of names: a row for each number up to the last crop
    names = (crops_run / "videos.txt").read_text().split()
    last = [max(int(p.stem) for p in next(crops_run.glob(f"data/**/{n}")).iterdir()) for n in names]
    assert check_submission(folder / "EXPR/predictions.txt", EXPR).rows == sum(last)


def test_a_submission_decides_by_the_mean_over_seeds(crops_run: Path) -> None:
    """Recomputed from the frame scores, for the listed videos that are in validation."""
    scores = read_table(crops_run / RESULTS / "evaluation/EXPR/scores.parquet")
    heads = scores[(scores["method"] == "head") & (scores["alpha"] == 0.5)]
    own = crops_run / RESULTS / "submission/EXPR/heads/predictions.txt"
    lines = own.read_text().splitlines()[1:]
    stated = dict(line.rsplit(",", 1) for line in lines)
    compared = 0
    for (video, person, frame), part in heads.groupby(["video", "person", "frame"]):
        location = f"{folder_name(video, person)}/{frame:05d}.jpg"
        if location in stated:
            mean = np.mean(np.stack(part["scores"].tolist()), axis=0)
            assert int(stated[location]) == int(mean.argmax())
            compared += 1
    names = {line.split("/")[0] for line in stated}
    validation = {folder_name(v, p) for v, p in zip(heads["video"], heads["person"], strict=True)}
    assert bool(names & validation) == bool(compared)


@pytest.fixture
def damaged(crops_run: Path, tmp_path: Path) -> Path:
    """A copy with a removed, an empty, a truncated image and an empty folder in validation."""
    folder = workplace(tmp_path / "copy")
    for name in ("results", "store", "logs", ".snakemake", "data", "annotations"):
        shutil.copytree(crops_run / name, folder / name)
    for name in ("crops.yaml", "videos.txt", "sample.txt"):
        shutil.copy(crops_run / name, folder / name)
    return folder


def test_gaps_keep_their_rows_and_are_filled_as_asked(damaged: Path) -> None:
    validation = sorted(
        (damaged / "annotations" / FOLDERS[EXPR.name][0] / "Validation_Set").iterdir()
    )
    first, second = (next(damaged.glob(f"data/**/{path.stem}")) for path in validation[:2])
    (first / "00003.jpg").unlink()
    (first / "00005.jpg").write_bytes(b"")
    whole = (first / "00007.jpg").read_bytes()
    (first / "00007.jpg").write_bytes(whole[: len(whole) // 2])
    (first / "Thumbs.db").write_bytes(b"x")
    for path in second.iterdir():
        path.unlink()
    scores = {}
    for policy in ("leave_out", "nearest", "interpolate"):
        config = yaml.safe_load((damaged / "crops.yaml").read_text())
        config["evaluation"] = {"missing": policy}
        config["training"] |= {"tasks": ["EXPR"], "seeds": [0], "parts": 1}
        (damaged / "gaps.yaml").write_text(yaml.safe_dump(config))
        snakemake(damaged, f"{RESULTS}/evaluation/EXPR/frames.json", "--configfile", "gaps.yaml")
        frames = json.loads((damaged / RESULTS / "evaluation/EXPR/frames.json").read_text())
        assert frames["with_crop"] + frames["filled"] + frames["left_out"] == frames["annotated"]
        table = read_table(damaged / RESULTS / "evaluation/EXPR/scores.parquet")
        table = table[(table["method"] == "head") & (table["alpha"] == 1.0) & (table["seed"] == 0)]
        video = first.name.removesuffix("_left").removesuffix("_right")
        own = table[table["video"] == video].set_index("frame")["scores"]
        scores[policy] = own[~own.index.duplicated()]
    rows = read_table(damaged / RESULTS / "tables/pixels/EXPR/rows.parquet")
    person = first.name.removeprefix(video).removeprefix("_")
    mine = rows[(rows["video"] == video) & (rows["person"] == person)].set_index("frame")["status"]
    expected = {3: "no_image", 5: "image_unreadable", 7: "image_unreadable", 4: "ok"}
    assert {frame: mine[frame] for frame in expected if frame in mine} == expected
    assert "video_empty" in set(rows["status"])
    assert not {3, 5, 7} & set(scores["leave_out"].index)
    for frame in (3, 5, 7):
        below, above = scores["leave_out"][frame - 1], scores["leave_out"][frame + 1]
        assert np.array_equal(scores["nearest"][frame], below)
        assert scores["interpolate"][frame] == pytest.approx((below + above) / 2, abs=1e-6)


def test_check_submission_names_the_line(crops_run: Path, tmp_path: Path) -> None:
    good = crops_run / RESULTS / "submission/AU/predictions.txt"
    bad = tmp_path / "predictions.txt"
    lines = good.read_text().splitlines()
    lines[4] = lines[4][:-1] + "2"
    bad.write_text("\n".join(lines) + "\n")
    outcomes = [clipaffect("check-submission", "--task", "AU", path) for path in (good, bad)]
    assert outcomes[0].returncode == 0
    assert outcomes[1].returncode == 2
    assert "line 5" in outcomes[1].stderr
    assert "AU26" in outcomes[1].stderr
