"""The whole chain on the micro configuration: results, reruns, resume, bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import (
    CLIPS,
    MICRO,
    ROOT,
    clipaffect,
    copy_of,
    snakemake,
    write_annotation,
    write_video,
)

from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import AU, EXPR
from clipaffect.dataset.readers.aff_wild2 import FOLDERS

RESULTS = Path("results/micro")
BELOW_TRAINING = {
    "evaluate_heads",
    "compare_heads",
    "postprocess_scores",
    "build_report",
    "first_page",
}
BELOW_TABLE = BELOW_TRAINING | {"build_table", "find_copies", "train_heads", "fit_references"}
BELOW_FACES = BELOW_TABLE | {"embed_faces"}
EVERYTHING = BELOW_FACES | {"index_dataset", "extract_frames", "align_faces"}

# docs/reruns.md, row by row: a setting, another value, the rules that run again.
RERUNS = {
    "data.shards": ({"data": {"shards": 3}}, EVERYTHING),
    "data.subset": ({"data": {"subset": {"train": 9, "validation": 3}}}, EVERYTHING),
    "data.split": (
        {"data": {"split": {"by": "folds", "folds": 2}}},
        EVERYTHING | {"train_final_heads"},
    ),
    "faces.min_score": ({"faces": {"min_score": 0.6}}, BELOW_FACES | {"align_faces"}),
    "faces.crop": ({"faces": {"crop": "cropped"}}, BELOW_FACES | {"align_faces"}),
    "faces.stride": ({"faces": {"stride": 2}}, BELOW_FACES | {"align_faces"}),
    "faces.quality": ({"faces": {"quality": {"yaw": 60}}}, BELOW_FACES | {"align_faces"}),
    "encoders.<name>": ({"encoders": {"micro": {"random": 1}}}, BELOW_FACES),
    "encoders.<name>.batch": ({"encoders": {"micro": {"batch": 16}}}, BELOW_FACES),
    "training.tasks": ({"training": {"tasks": ["AU"]}}, EVERYTHING),
    "training.alphas": (
        {"training": {"alphas": [0.3, 0.5, 1.0]}},
        BELOW_TRAINING | {"train_heads"},
    ),
    "training.headline_alpha": (
        {"training": {"headline_alpha": 1.0}},
        BELOW_TRAINING | {"train_heads"},
    ),
    "training.parts": ({"training": {"parts": 1}}, BELOW_TRAINING | {"train_heads"}),
    "data.licensed": ({"data": {"licensed": True}}, EVERYTHING),
    "data.near_copies": ({"data": {"near_copies": "off"}}, BELOW_TRAINING | {"find_copies"}),
    "training.rho": ({"training": {"rho": 0.2}}, BELOW_TRAINING | {"train_heads"}),
    "training.seeds": ({"training": {"seeds": [0, 1, 2]}}, BELOW_TRAINING | {"train_heads"}),
    "training.variants": (
        {"training": {"variants": {"no-sam": {"rho": 0}}}},
        BELOW_TRAINING | {"train_heads"},
    ),
    "preset": ({"preset": "recommended"}, {"build_report", "first_page"}),
    "training.epochs": ({"training": {"epochs": 4}}, BELOW_TRAINING | {"train_heads"}),
    "evaluation.missing": ({"evaluation": {"missing": "nearest"}}, BELOW_TRAINING),
    "evaluation.resamples": ({"evaluation": {"resamples": 2000}}, BELOW_TRAINING),
    "postprocess.folds": (
        {"postprocess": {"folds": 3}},
        {"postprocess_scores", "build_report", "first_page"},
    ),
    "final_heads": (
        {"final_heads": "everybody"},
        {"train_final_heads", "build_report", "first_page"},
    ),
    "zero_shot.prompts": (
        {"zero_shot": {"prompts": {"EXPR": {"Fear": ["a face showing fear"]}}}},
        BELOW_TRAINING | {"fit_references"},
    ),
    "probe.strengths": ({"probe": {"strengths": [0.2]}}, BELOW_TRAINING | {"fit_references"}),
    "paths.scratch": ({"paths": {"scratch": "$NODE_DISK"}}, {"build_report", "first_page"}),
    "paths.store": ({"paths": {"store": "elsewhere"}}, {"build_report", "first_page"}),
    "environment": ({"environment": "cuda"}, {"build_report", "first_page"}),
    "prediction.videos": ({"prediction": {"videos": ["elsewhere"]}}, set()),
}


def rules_to_run(folder: Path, *arguments: str) -> set[str]:
    """Rules that a dry run would start, but for the page of times that follows every report."""
    output = snakemake(folder, "--dry-run", "--quiet", "reason", *MICRO, *arguments).stdout
    if "Nothing to be done" in output:
        return set()
    table = output.split("Job stats:")[1].split("total")[0]
    return set(re.findall(r"^(\w+)\s+\d+$", table, re.MULTILINE)) - {"all", "show_timings"}


def test_everything_is_there(micro_run: Path) -> None:
    report = micro_run / RESULTS / "report"
    for name in ("index.html", "metrics.json", "report.md", "tables/runs.csv", "cards/AU.md"):
        assert (report / name).stat().st_size > 100
    assert (micro_run / RESULTS / "start.html").is_file()
    numbers = json.loads((report / "metrics.json").read_text())["tasks"]
    for task in ("EXPR", "AU"):
        assert numbers[task]["alphas"].keys() == {"0.5", "1"}
        assert numbers[task]["headline"]["seeds"] == 2
        assert len(numbers[task]["references"]) == 3
    runs = pd.read_csv(report / "tables/runs.csv")
    assert (runs["method"] == "head").sum() == 8
    assert runs["macro_f1"].between(0, 1).all()


def test_every_frame_of_every_video_has_its_rows(micro_run: Path) -> None:
    parts = {
        kind: pd.concat(
            [read_table(p) for p in sorted((micro_run / RESULTS / kind).glob("*.parquet"))]
        )
        for kind in ("frames", "faces", "embeddings/micro", "dataset/manifests")
    }
    people = parts["dataset/manifests"].set_index("video")["persons"].map(len)
    frames = parts["frames"].groupby("video").size()
    keys = ["video", "person", "frame"]
    for kind in ("faces", "embeddings/micro"):
        assert parts[kind].groupby("video").size().to_dict() == (frames * people).to_dict()
        assert not parts[kind].duplicated(keys).any()
    annotated = read_table(micro_run / RESULTS / "dataset/labels/EXPR.parquet")["annotated"].sum()
    assert len(read_table(micro_run / RESULTS / "tables/micro/EXPR/rows.parquet")) == annotated


def test_scores_recomputed_from_the_score_table(micro_run: Path) -> None:
    folder = micro_run / RESULTS
    scores = read_table(folder / "evaluation/EXPR/scores.parquet")
    rows = read_table(folder / "tables/micro/EXPR/rows.parquet")
    joined = scores.merge(rows, on=["video", "person", "frame"])
    metrics = read_table(folder / "evaluation/EXPR/metrics.parquet")
    for (alpha, seed), part in joined[joined["method"] == "head"].groupby(["alpha", "seed"]):
        decided = part["scores"].map(lambda s: int(s.argmax()))
        f1 = []
        for c in range(8):
            hits = ((decided == c) & (part["label"] == c)).sum()
            total = (decided == c).sum() + (part["label"] == c).sum()
            f1.append(2 * hits / total if total else 0.0)
        stated = metrics.query("metric == 'macro_f1' and method == 'head'")
        stated = stated[(stated["alpha"] == alpha) & (stated["seed"] == seed)]["value"].item()
        assert stated == pytest.approx(sum(f1) / 8)


def test_people_of_validation_are_in_no_training(micro_run: Path) -> None:
    rows = read_table(micro_run / RESULTS / "tables/micro/AU/rows.parquet")
    by_split = rows.groupby("split")["video"].agg(set)
    assert not by_split["train"] & by_split["validation"]


def test_pages_need_no_network(micro_run: Path) -> None:
    for page in ("start.html", "report/index.html"):
        text = (micro_run / RESULTS / page).read_text()
        assert not re.search(r"(src|href)=[\"'](https?:)?//", text)


def test_a_finished_run_has_nothing_to_do(planned: Path) -> None:
    assert rules_to_run(planned) == set()


@pytest.fixture(scope="module")
def planned(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which runs are planned and nothing is changed."""
    return copy_of(micro_run, tmp_path_factory.mktemp("planned"))


@pytest.mark.parametrize("setting", RERUNS)
def test_a_setting_reruns_what_the_table_says(planned: Path, setting: str) -> None:
    change, expected = RERUNS[setting]
    overrides = [f"{key}={json.dumps(value)}" for key, value in change.items()]
    assert rules_to_run(planned, "--config", *overrides) == expected


def test_a_dry_run_names_the_stages_and_the_changed_settings(planned: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "tests/config/micro.yaml").read_text())
    (tmp_path / "same.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    values["training"]["epochs"] = 4
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    same, other = (
        clipaffect("run", "-n", "--configfile", tmp_path / name, folder=planned)
        for name in ("same.yaml", "other.yaml")
    )
    assert (same.returncode, other.returncode) == (0, 0)
    assert same.stdout == "Nothing would run: all results are up to date.\n"
    shown = other.stdout.splitlines()
    assert [line for line in shown if "→" in line] == ["  training.epochs: 3 → 4"]
    assert any(re.fullmatch(r"about .+, based on the last run", line) for line in shown)
    stages = {line.strip().rpartition("  ")[0].strip() for line in shown if line.startswith("  ")}
    assert {"train heads", "evaluate heads", "build report"} <= stages
    assert "align faces" not in stages


def test_the_documented_table_is_the_tested_one() -> None:
    text = (ROOT / "docs/reruns.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*)\|", text, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", rules)) for name, rules in rows}
    tested = {name: rules - {"build_report", "first_page"} for name, (_, rules) in RERUNS.items()}
    assert documented == tested


BAD = {
    "empty.mp4": ("video_empty", lambda path: path.write_bytes(b"")),
    "text.mp4": ("video_unreadable", lambda path: path.write_text("no video")),
    "no people.mp4": ("no_face", lambda path: write_video(path, frames=5)),
    'quote\'s "name" <b>&amp;.mp4': ("no_face", lambda path: write_video(path, frames=5)),
    "-dash.mp4": ("no_face", lambda path: write_video(path, frames=5)),
    "$(touch sprung).mp4": ("no_face", lambda path: write_video(path, frames=5)),
}


def test_bad_videos_among_good_ones_keep_their_rows(micro_copy: Path) -> None:
    for kind in ("videos", "annotations"):
        shutil.copytree(CLIPS / kind, micro_copy / "data" / kind)
    for name, (_, make) in BAD.items():
        make(micro_copy / "data/videos" / name)
    missing = "never <i>there & here"
    names = [*(Path(name).stem for name in BAD), missing]
    for name in names:
        for task, row in ((EXPR, "0"), (AU, ",".join(["0"] * 12))):
            folder = micro_copy / "data/annotations" / FOLDERS[task.name][0] / "Validation_Set"
            write_annotation(folder / f"{name}.txt", task.header, [row] * 6)
    config = yaml.safe_load((ROOT / "tests/config/micro.yaml").read_text())
    config["data"] |= {
        "videos": "data/videos",
        "annotations": "data/annotations",
        "subset": {"train": 8, "validation": 100},
    }
    (micro_copy / "bad.yaml").write_text(yaml.safe_dump(config))
    # Only the videos of the finished run and the bad ones: the rest would take minutes.
    used = {row["video"] for row in manifests(micro_copy)} | set(names)
    for path in [
        *(micro_copy / "data/videos").iterdir(),
        *(micro_copy / "data/annotations").rglob("*.txt"),
    ]:
        if path.stem.removesuffix("_left").removesuffix("_right") not in used:
            path.unlink()
    snakemake(micro_copy, "--configfile", "bad.yaml")
    rows = read_table(micro_copy / RESULTS / "tables/micro/EXPR/rows.parquet")
    found = rows.groupby("video")["status"].agg(lambda s: sorted(set(s)))
    for name, (status, _) in BAD.items():
        video = Path(name).stem
        expected = [status] if status.startswith("video") else sorted([status, "beyond_video"])
        assert found[video] == expected
        assert (rows["video"] == video).sum() == 6
    assert found[missing] == ["video_missing"]
    coverage = pd.read_csv(micro_copy / RESULTS / "report/tables/coverage.csv")
    assert {"video_empty", "video_unreadable", "video_missing"} <= set(coverage["status"])
    page = (micro_copy / RESULTS / "report/index.html").read_text()
    assert "never &lt;i&gt;there &amp; here" in page
    assert missing not in page
    assert not list(micro_copy.rglob("sprung"))


def manifests(folder: Path) -> list[dict]:
    paths = sorted((folder / RESULTS / "dataset/manifests").glob("*.parquet"))
    return pd.concat([read_table(path) for path in paths]).to_dict("records")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('training={"alpha": [1]}', ["unknown key 'training.alpha'", "did you mean 'alphas'"]),
        ('data={"videos": "nowhere"}', ["the video folder does not exist", "data.videos"]),
        (
            'data={"annotations": "nowhere", "videos": "tests/data/clips/videos"}',
            ["the annotation folder does not exist", "data.annotations"],
        ),
        ('encoders={"micro": {"activation": "quickgelu"}}', ["uses gelu", "every embedding"]),
    ],
)
def test_a_users_mistake_shows_no_traceback(micro_copy: Path, override: str, words: list) -> None:
    done = snakemake(micro_copy, *MICRO, "--config", override, check=False)
    assert done.returncode != 0
    output = " ".join((done.stdout + done.stderr).split())
    for word in words:
        assert word in output
    assert "Traceback" not in output


def test_snakemakes_own_report_shows_captions_and_labels(planned: Path) -> None:
    snakemake(planned, *MICRO, "--report", "report.html")
    text = (planned / "report.html").read_text()
    assert "Macro F1 over alpha" in text
    assert "alpha = 1 is plain ERM" in text
