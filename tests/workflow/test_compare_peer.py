"""A run against tables in the formats of other systems, recomputed with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, clipaffect
from sklearn.metrics import f1_score

from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import AU, EXPR
from clipaffect.report.compare_peer import compare_peer, match
from clipaffect.report.peer_table import (
    PeerColumns,
    PeerPredictions,
    read_peer,
    read_peer_columns,
)

PEERS = ROOT / "config/peers"


@pytest.fixture(scope="module")
def results(micro_run: Path) -> Path:
    return micro_run / "results/micro"


# The names of its emotions in py-feat 2.1.5, by those of the first detector.
SECOND = {
    "neutral": "Neutral",
    "happiness": "Happy",
    "sadness": "Sad",
    "surprise": "Surprise",
    "fear": "Fear",
    "disgust": "Disgust",
    "anger": "Anger",
}


@pytest.fixture(scope="module")
def fex(results: Path) -> pd.DataFrame:
    """Like py-feat's first: frames from 0, seven emotions, a bystander, a frame without a face."""
    rows = read_table(results / "evaluation/EXPR/rows.parquet")
    rows = rows[rows["person"] == ""]
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(7), len(rows))
    columns = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    table = pd.DataFrame(values, columns=columns)
    table.insert(0, "frame", rows["frame"].to_numpy() - 1)
    table["input"] = ["/data/" + video + ".mp4" for video in rows["video"]]
    table["FaceScore"] = 0.9
    other = table.iloc[::7].assign(FaceScore=0.2, happiness=0.0, anger=1.0)
    other.loc[:, ["disgust", "fear", "sadness", "surprise", "neutral"]] = 0.0
    table.loc[5, [*columns, "FaceScore"]] = np.nan
    return pd.concat([table, other], ignore_index=True)


def scored_by_hand(results: Path, fex: pd.DataFrame, missed: bool) -> float:
    names = [target.lower() for target in EXPR.targets[:-1]]
    best = fex[fex["FaceScore"] > 0.5].copy()
    best["said"] = best[names].to_numpy().argmax(axis=1)
    best["video"] = best["input"].str.removeprefix("/data/").str.removesuffix(".mp4")
    rows = read_table(results / "evaluation/EXPR/rows.parquet").astype({"video": str})
    rows = rows[rows["person"] == ""].merge(
        best.assign(frame=best["frame"] + 1)[["video", "frame", "said"]],
        on=["video", "frame"],
        how="left",
    )
    rows = rows if missed else rows.dropna(subset="said")
    said = rows["said"].fillna(99)
    return float(f1_score(rows["label"], said, labels=range(8), average="macro", zero_division=0))


def test_a_table_like_py_feats_is_scored_on_the_same_frames(
    results: Path, fex: pd.DataFrame, tmp_path: Path
) -> None:
    fex.rename(columns=SECOND).to_csv(tmp_path / "fex.csv", index=False)
    page = tmp_path / "page.html"
    words = ["compare", results, tmp_path / "fex.csv", "--columns", PEERS / "py-feat.yaml"]
    done = clipaffect(*words, "--out", page)
    assert done.returncode == 0, done.stderr
    assert "have the number 0 in the table, as stated" in done.stdout
    assert "further faces of a frame: the largest FaceScore is taken" in done.stdout
    both, lost = scored_by_hand(results, fex, False), scored_by_hand(results, fex, True)
    assert f"py-feat {both:.3f}" in done.stdout
    rows = read_table(results / "evaluation/EXPR/rows.parquet")
    alone = rows[rows["person"] == ""]
    assert f"misses ({len(alone):,})" in done.stdout
    assert f"{len(rows) - len(alone)} frames of people who are annotated as left" in done.stdout
    assert f"py-feat {lost:.3f}" in done.stdout
    assert "the 7 classes that the other system knows" in done.stdout
    keys = ["video", "person", "frame"]
    scores = read_table(results / "evaluation/EXPR/scores.parquet")
    scores = scores.query("method == 'head' and variant == '' and alpha == 0.5")
    each = []
    for _, own in scores.groupby("seed"):
        both = alone.merge(own[[*keys, "scores"]], on=keys, validate="one_to_one")
        said = np.stack(both["scores"].tolist()).argmax(axis=1)
        labels = {"labels": range(8), "average": "macro", "zero_division": 0}
        each.append(f1_score(both["label"], said, **labels))
    assert f"heads, alpha = 0.5 {np.mean(each):.3f}, py-feat {lost:.3f}" in done.stdout
    assert "Other" not in page.read_text().split("py-feat predicts")[1].split(".")[0]


def test_both_generations_of_py_feat_and_the_labels_of_emotiefflib_give_the_same_decisions(
    results: Path, fex: pd.DataFrame, tmp_path: Path
) -> None:
    one = fex[fex["FaceScore"] > 0.5]
    one.to_csv(tmp_path / "v1.csv", index=False)
    one.rename(columns=SECOND).to_csv(tmp_path / "v2.csv", index=False)
    emotion = one[list(SECOND)].idxmax(axis=1).str.capitalize()
    emotion.iloc[0] = "Contempt"
    named = one[["frame"]].assign(video=one["input"], emotion=emotion)
    named.to_csv(tmp_path / "labels.csv", index=False)
    units = {f"AU{n:02}": np.linspace(0, 1, len(one)) for n in (1, 2, 4, 6, 7, 10, 12, 15)}
    units |= {f"AU{n}": np.linspace(1, 0, len(one)) for n in (23, 24, 25, 26)}
    one.assign(**units).to_csv(tmp_path / "au.csv", index=False)

    def decided(table: str, peer: str) -> np.ndarray:
        columns = read_peer_columns(PEERS / f"{peer}.yaml")
        found = read_peer(tmp_path / f"{table}.csv", columns, tasks[columns.task])
        order = found.rows.sort_values(["video", "frame"]).index
        return found.decisions[order]

    tasks = {"EXPR": EXPR, "AU": AU}
    first = decided("v1", "py-feat-v1")
    np.testing.assert_array_equal(first, decided("v2", "py-feat"))
    labels = decided("labels", "emotiefflib")
    assert (labels == EXPR.targets.index("Other")).sum() == 1
    assert (labels != first).sum() == 1
    bits = decided("au", "py-feat-au")
    assert set(bits.sum(axis=1).tolist()) <= {4, 8, 12}
    assert bits.shape == (len(one), 12)


def test_a_folder_like_openfaces_has_a_table_for_each_video(results: Path, tmp_path: Path) -> None:
    """The annotations themselves, with the units that OpenFace lacks absent: F1 is 1 for others."""
    rows = read_table(results / "evaluation/AU/rows.parquet").astype({"video": str})
    columns = yaml.safe_load((PEERS / "openface.yaml").read_text())
    for video, own in rows.groupby("video"):
        table = pd.DataFrame({"frame": own["frame"], " confidence": 0.98, " success": 1})
        for unit, name in columns["present"].items():
            table[f" {name}"] = own[unit].clip(lower=0).astype(float)
        table[" success"] = np.where(table["frame"] == own["frame"].min(), 0, 1)
        table.drop_duplicates("frame").to_csv(tmp_path / f"{video}.csv", index=False)
    lines = compare_peer(results, tmp_path, PEERS / "openface.yaml", tmp_path / "p.html")
    known = [unit for unit in AU.targets if unit != "AU24"]
    shown = next(line for line in lines if "the 11 labels" in line)
    one = rows[rows["person"] == ""]
    one = one[one["frame"] != one.groupby("video")["frame"].transform("min")]
    expected = np.mean([1.0 if (one[unit] == 1).any() else 0.0 for unit in known])
    value = float(shown.split("OpenFace ")[1].split(",")[0])
    assert value == pytest.approx(expected, abs=1e-3)
    assert any("annotated as left or right are left out" in line for line in lines)
    assert any("say that there is no face" in line for line in lines)


@pytest.mark.parametrize("frames", [range(100), range(20, 60)])
def test_frames_counted_from_0_are_known_by_a_frame_0(frames: range) -> None:
    """Also where the last frame has no label, so that both ways fit as many frames."""
    labels = np.arange(1, 101) % 8
    rows = pd.DataFrame(
        {
            "group": "p",
            "video": "v.mp4",
            "person": "",
            "frame": np.arange(1, 100),
            "label": labels[:99],
        }
    )
    rows = rows[rows["frame"].isin([k + 1 for k in frames])]
    table = pd.DataFrame({"video": "v", "side": "", "frame": np.arange(100)})
    found = PeerPredictions(table, labels[:, None], [])
    matched = match(rows, found, PeerColumns(task="EXPR", label="x"), EXPR)
    assert (matched.peer == matched.labels).all()
    assert any("have the number 0" in note for note in matched.notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.assign(input="elsewhere/x.mp4"), "none of the table's 1 videos"),
        (lambda t: t.drop(columns="fear"), "no column 'fear'"),
        (lambda t: t.assign(fear=t["fear"] + 0.5), "do not sum to one"),
        (lambda t: t.assign(fear="high"), "'high' in the column 'fear' is not a number"),
        (lambda t: t.assign(frame="one"), "not a number"),
        (lambda t: t.assign(frame=t["frame"] + 0.5), "not a frame number"),
        (lambda t: t.assign(frame=t["frame"] + 100_000), "no prediction for any scored frame"),
    ],
    ids=["videos", "column", "sum", "text", "frames", "halves", "other frames"],
)
def test_a_wrong_table_is_said(
    results: Path, fex: pd.DataFrame, tmp_path: Path, change, said: str
) -> None:
    change(fex).to_csv(tmp_path / "fex.csv", index=False)
    with pytest.raises(UserError, match=said):
        compare_peer(results, tmp_path / "fex.csv", PEERS / "py-feat-v1.yaml", tmp_path / "p.html")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"task": "EXPR"}, "exactly one of"),
        ({"task": "mood", "label": "x"}, "no task 'mood'"),
        ({"task": "EXPR", "present": {"AU1": "x"}}, "'AU1' is no class"),
        ({"task": "AU", "label": "x"}, "has labels: give"),
        ({"task": "EXPR", "lable": "x"}, "did you mean 'label'"),
    ],
)
def test_a_wrong_list_of_columns_is_said(
    results: Path, tmp_path: Path, values: dict, said: str
) -> None:
    (tmp_path / "columns.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "t.csv").write_text("frame,x\n1,Fear\n")
    with pytest.raises(UserError, match=said):
        compare_peer(results, tmp_path / "t.csv", tmp_path / "columns.yaml")
