"""Check the study of hard examples against the known faults of the demo's annotations.

    clipaffect run results/demo/studies/tail-card/index.html      # after `make demo`
    python tools/score_suspects.py                                # seconds

The study lists stretches of labels that look wrong, the most suspicious first. A segment is a
hit if injected.csv lists at least half of its frames as wrong. The script prints:

- precision at k, and the base rate: the share of wrong labels among all training labels;
- the lag that the study finds, and the mean injected lag;
- the share of the highest losses that belongs to people with a misleading resting face.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from clipaffect.core.tasks import AU, EXPR
from clipaffect.synthetic.make_data import INJECTED

CARD, DATA = Path("results/demo/studies/tail-card"), Path("resources/demo")
RUN = Path("results/demo")
FIRST = (10, 25, 50, 100)


def wrong_frames(injected: pd.DataFrame) -> dict[str, set[tuple[str, str, str, int]]]:
    """(video, person, unit or '', frame) of every wrong label, by task; late ones are left out."""
    found: dict[str, set[tuple[str, str, str, int]]] = {EXPR.name: set(), AU.name: set()}
    for row in injected[
        injected["kind"].isin(["wrong_expression", "missed_unit", "spurious_unit"])
    ].itertuples():
        frames = range(row.first, row.last + 1)
        found[row.task] |= {(row.video, row.person, row.target, frame) for frame in frames}
    return found


def hits(suspects: pd.DataFrame, wrong: set[tuple[str, str, str, int]]) -> np.ndarray:
    """(n,) bool: at least half of a stretch's frames are wrong."""
    found = []
    for row in suspects.itertuples():
        unit = str(row.annotated).split()[0] if " " in str(row.annotated) else ""
        own = [(row.video, row.person, unit, f) in wrong for f in range(row.first, row.last + 1)]
        found.append(np.mean(own) >= 0.5)
    return np.array(found, bool)


def main() -> None:
    """Print the table, and a JSON object as the last line."""
    injected = pd.read_csv(DATA / INJECTED, keep_default_na=False)
    wrong = wrong_frames(injected)
    figures: dict[str, float] = {}
    table = Table(
        "task", "suspects", *(f"precision at {k}" for k in FIRST), "precision (all)", "base rate"
    )
    for task in (EXPR, AU):
        rows = pd.read_parquet(RUN / f"tables/tiny-clip/{task.name}/rows.parquet")
        labels = int((rows["split"] == "train").sum()) * (len(AU.targets) if task.multilabel else 1)
        chance = len(wrong[task.name]) / labels
        suspects = pd.read_csv(CARD / f"tables/suspects_{task.name}.csv", keep_default_na=False)
        right = hits(suspects, wrong[task.name])
        at = [float(right[:k].mean()) if len(right) >= k else float("nan") for k in FIRST]
        figures |= {f"{task.name.lower()}_at_{k}": p for k, p in zip(FIRST, at, strict=True)}
        figures |= {
            f"{task.name.lower()}_listed": len(right),
            f"{task.name.lower()}_chance": chance,
        }
        shares = [
            f"{p:.2f}" for p in [*at, float(right.mean()) if len(right) else float("nan"), chance]
        ]
        table.add_row(task.name, str(len(right)), *shares)
    Console().print(table)
    lag = injected[injected["kind"] == "lag"]["annotated"].astype(int)
    shifts = pd.read_csv(CARD / "tables/lags_EXPR.csv")
    best = int(shifts.loc[shifts["difference"].idxmax(), "shift"])
    print(f"EXPR lag in frames: {lag.mean():.1f} injected on average, {-best} found by the study")
    hard = injected[injected["kind"] == "misleading_resting_face"]
    alone = set(hard["video"][hard["person"] == ""])
    for task in (EXPR, AU):
        videos = pd.read_csv(CARD / f"tables/videos_{task.name}.csv")
        own = videos["name"].isin(alone)
        labels, worst = videos["share"][own].sum(), videos["share_of_tail"][own].sum()
        print(f"{task.name}: people with a misleading resting face have", end=" ")
        print(f"{labels:.0%} of the labels and {worst:.0%} of the highest losses")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
