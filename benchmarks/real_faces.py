"""What models of rendered faces answer on real ones: AUC of each class and unit, by system.

    python benchmarks/real_faces.py [MODEL ...]     # after `make demo`
    python benchmarks/real_faces.py --smoke         # some frames, zero-shot alone

Clips were labelled by eye in two passes that did not see each other (``real_faces.yaml``). Only
frames on which both passes agree are scored; the agreement is printed. Systems: each MODEL (by
default the demo's), CLIP by prompts alone on the same encoder, and the package fer 25.10.3, with
its own face detector, if FER_PYTHON names a Python that has it (with tensorflow-cpu,
opencv-contrib-python-headless < 5 and setuptools < 81). Prints Markdown tables, and a JSON object
as its last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from sklearn.metrics import cohen_kappa_score, roc_auc_score

import clipaffect
from clipaffect.core.fetch_asset import ensure_asset
from clipaffect.core.tasks import AU, EXPR

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "assets"
LABELS = Path(__file__).with_suffix(".yaml")
SMOKE = "--smoke" in sys.argv
FEWEST = 10  # frames with and without a class, for an AUC
FER = """
import json, sys
import cv2, numpy as np
from fer.fer import FER
model = FER()
names = dict(angry="Anger", disgust="Disgust", fear="Fear", happy="Happiness", sad="Sadness",
             surprise="Surprise", neutral="Neutral")
found = []
for path in sys.argv[1:]:
    video, number = cv2.VideoCapture(path), 0
    while True:
        more, picture = video.read()
        if not more:
            break
        number += 1
        faces = model.detect_emotions(picture)
        if faces:
            face = max(faces, key=lambda one: one["box"][2] * one["box"][3])
            found.append([path, number, {names[k]: float(v) for k, v in face["emotions"].items()}])
print(json.dumps(found))
"""

Truth = dict[tuple[str, int], str | int]


def segments(labels: dict[str, Any], clip: str) -> Iterator[tuple[str, str, int, int]]:
    """(what, value, first, last) of a clip; frames are counted from 1 here, as in all tables."""
    for what, kinds in labels[clip].items():
        for value, stretches in kinds.items():
            for first, last in stretches:
                yield what, value, first + 1, last + 1


def coded(labels: dict[str, Any], what: str) -> Truth:
    """The label of each frame of the clips that has one."""
    return {
        (clip, frame): value
        for clip in labels
        if clip.endswith(".mp4")
        for own, value, first, last in segments(labels, clip)
        for frame in range(first, last + 1)
        if own == what
    }


def agreed(what: str, passes: list[dict[str, Any]]) -> tuple[Truth, dict[str, float]]:
    """Labels on which both passes agree, and how often they do."""
    one, other = (coded(labels, what) for labels in passes)
    both = sorted(one.keys() & other.keys())
    same = [key for key in both if one[key] == other[key]]
    pairs = [one[key] for key in both], [other[key] for key in both]
    kinds = len({*pairs[0], *pairs[1]})
    kappa = cohen_kappa_score(*pairs) if kinds > 1 else float("nan")
    facts = {"frames": len(both), "agreement": len(same) / max(1, len(both)), "kappa": kappa}
    return {key: one[key] for key in same}, facts


def answers(model: clipaffect.Model, clips: dict[str, Path]) -> pd.DataFrame:
    """One row for each frame with a face, by clip and frame."""
    parts = [model.predict(path, people="main").assign(clip=clip) for clip, path in clips.items()]
    found = pd.concat(parts)
    return found[found["status"] == "ok"].set_index(["clip", "frame"])


def fer_answers(python: str, clips: dict[str, Path]) -> pd.DataFrame:
    """The same of the package fer; its class Other does not exist, and is 0."""
    names = {str(path): clip for clip, path in clips.items()}
    done = subprocess.run(
        [python, "-c", FER, *names],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    rows = json.loads(done.stdout.splitlines()[-1])
    table = pd.DataFrame([scores for _, _, scores in rows]).reindex(columns=list(EXPR.targets))
    table = table.fillna(0).add_prefix("EXPR_")
    table["EXPR"] = [max(scores, key=scores.__getitem__) for _, _, scores in rows]
    keys = [(names[path], number) for path, number, _ in rows]
    return table.set_index(pd.MultiIndex.from_tuples(keys, names=["clip", "frame"]))


def auc(found: pd.DataFrame, column: str, truth: dict[tuple[str, int], bool]) -> float:
    """AUC on the frames with a face; NaN with too few of either kind."""
    keys = [key for key in truth if key in found.index]
    shown = np.array([truth[key] for key in keys], bool)
    if column not in found or min(shown.sum(), (~shown).sum()) < FEWEST:
        return float("nan")
    return float(roc_auc_score(shown, found.loc[keys, column].astype(float)))


def scores(found: pd.DataFrame, expression: Truth, units: dict[str, Truth]) -> dict[str, float]:
    """Accuracy, AUC of each class and of each unit."""
    keys = [key for key in expression if key in found.index]
    right = [str(found.loc[key, "EXPR"]) == expression[key] for key in keys]
    row = {"frames": float(len(keys)), "accuracy": float(np.mean(right))}
    for name in dict.fromkeys(expression.values()):
        row[str(name)] = auc(
            found, f"EXPR_{name}", {key: value == name for key, value in expression.items()}
        )
    for unit, truth in units.items():
        row[unit] = auc(
            found, f"AU_{unit}", {key: value == "present" for key, value in truth.items()}
        )
    return row


def main() -> None:
    """Print the agreement and the scores of every system."""
    stated = yaml.safe_load(LABELS.read_text(encoding="utf-8"))
    passes = [stated["pass_1"], stated.get("pass_2", stated["pass_1"])]
    print("| label | frames in both passes | agreement | kappa |\n|---|---|---|---|")
    truth: dict[str, Truth] = {}
    for name in ("EXPR", *AU.targets):
        truth[name], facts = agreed(name, passes)
        if facts["frames"]:
            print(
                f"| {name} | {facts['frames']} | {facts['agreement']:.2f} | {facts['kappa']:.2f} |"
            )
    expression = truth.pop("EXPR")
    folder = ensure_asset("real-clips", ASSETS) / "real-clips"
    clips = {name: folder / name for name in stated["pass_1"] if (folder / name).is_file()}
    if SMOKE:
        clips = {"single_face.mp4": clips["single_face.mp4"]}
    systems: dict[str, pd.DataFrame] = {}
    for path in [] if SMOKE else (sys.argv[1:] or [str(ROOT / "results/demo")]):
        systems[f"head ({Path(path).name})"] = answers(
            clipaffect.load_model(path, assets=ASSETS), clips
        )
    zero_shot = clipaffect.load_model(
        "zero-shot", configuration=ROOT / "config/config.yaml", assets=ASSETS
    )
    systems["zero-shot, the demo's encoder"] = answers(zero_shot, clips)
    if python := os.environ.get("FER_PYTHON"):
        systems["fer 25.10.3"] = fer_answers(python, clips)
    rows = {name: scores(found, expression, truth) for name, found in systems.items()}
    columns = list(next(iter(rows.values())))
    columns = [c for c in columns if not all(np.isnan(row[c]) for row in rows.values())]
    print(f"\n| system | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in rows.items():
        cells = [f"{row[c]:.0f}" if c == "frames" else f"{row[c]:.2f}" for c in columns]
        print(f"| {name} | {' | '.join(cells)} |".replace("nan", "–"))
    print(json.dumps({f"{name}: accuracy": row["accuracy"] for name, row in rows.items()}))


if __name__ == "__main__":
    main()
