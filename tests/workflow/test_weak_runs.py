"""What the report says of a run with one seed, a failed head and a class that nobody shows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
from conftest import MICRO, ROOT, snakemake

from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import EXPR
from clipaffect.dataset.readers.aff_wild2 import FOLDERS
from clipaffect.report.tables import latex

REPORT = Path("results/micro/report")
# Finite on the few frames that it is tried on, and never on a whole batch.
BREAKS = """
from torch.nn import functional


class Breaks:
    def __call__(self, logits, labels):
        if labels.shape[1] == 1:
            loss = functional.cross_entropy(logits, labels[:, 0].long())
        else:
            loss = functional.binary_cross_entropy_with_logits(logits, (labels > 0).float())
        return loss * float("nan") if len(logits) == 64 else loss
"""


def test_a_weak_run_is_shown_as_what_it_is(micro_copy: Path) -> None:
    shutil.copytree(ROOT / "tests/data/clips/annotations", micro_copy / "annotations")
    anger = str(EXPR.targets.index("Anger"))
    validation = micro_copy / "annotations" / FOLDERS["EXPR"][0] / "Validation_Set"
    for path in validation.glob("*.txt"):
        header, *labels = path.read_text().splitlines()
        shown = ["0" if label == anger else label for label in labels]
        path.write_text("\n".join([header, *shown]) + "\n")
    (micro_copy / "breaks.py").write_text(BREAKS)
    training = {"seeds": [0], "variants": {"breaks": {"loss": "breaks.py:Breaks"}}}
    data = {"videos": "tests/data/clips/videos", "annotations": "annotations"}
    snakemake(
        micro_copy,
        *MICRO,
        "--config",
        f"training={json.dumps(training)}",
        f"data={json.dumps(data)}",
    )
    page = (micro_copy / REPORT / "index.html").read_text()
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "1 head failed and is excluded from all averages" in words
    assert "One seed, so nothing is known of the spread over seeds" in words
    assert "Not in this validation split: Anger ; their F1 counts as 0" in words
    numbers = json.loads((micro_copy / REPORT / "metrics.json").read_text())["tasks"]
    assert numbers["EXPR"]["headline"]["deviation"] is None
    assert numbers["EXPR"]["failed_heads"] == numbers["AU"]["failed_heads"] == 1
    assert numbers["EXPR"]["absent_in_validation"] == ["Anger"]
    runs = pd.read_csv(micro_copy / REPORT / "tables/runs.csv")
    broken = runs[runs["variant"] == "breaks"]
    assert broken["status"].tolist() == ["non_finite", "non_finite"]
    assert broken["macro_f1"].isna().all()
    assert runs[runs["variant"] != "breaks"]["macro_f1"].notna().all()
    # Macro F1 counts every class: one that has no frame as 0.
    values = read_table(micro_copy / REPORT.parent / "evaluation/EXPR/metrics.parquet")
    own = values[(values["variant"] == "") & (values["method"] == "head")]
    by_class = own[own["metric"] == "f1"].groupby(["alpha", "seed"])
    of_anger = own[(own["metric"] == "f1") & (own["target"] == "Anger")]["value"]
    assert of_anger.tolist() == [0, 0]  # at two levels of alpha
    means = own[own["metric"] == "macro_f1"].set_index(["alpha", "seed"])["value"]
    assert (by_class["value"].sum() / 8).sub(means).abs().max() < 1e-12


def test_a_name_with_latex_in_it_breaks_no_table() -> None:
    hostile = r"50% of $x_1$ & \input{/etc/passwd} #2 {~^"
    text = latex(pd.DataFrame({"a_b & c": [hostile, "plain"], "macro_f1": [0.5, 0.25]}), "t")
    rows = [line for line in text.splitlines() if line.rstrip().endswith(r"\\")]
    assert len(rows) == 3
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == 1
    assert r"\input" not in text
    cell = rows[1].rpartition(" & ")[0]
    for special in "%$_#":
        assert not re.search(rf"(?<!\\){re.escape(special)}", cell), special
