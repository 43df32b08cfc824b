"""The card on hard examples: what has the largest losses, suspect labels, and label lag.

Everything is computed on cross-fitted scores: no head has seen the person that it predicts. CVaR at
level alpha trains on the largest share alpha of the losses; the card shows what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from clipaffect.config.models import Config
from clipaffect.core.layout import Layout
from clipaffect.core.metrics import decide
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.evaluation.fold_data import read_scores
from clipaffect.evaluation.intervals import FEWEST
from clipaffect.evaluation.paired_test import holm, swap_test
from clipaffect.evaluation.person_counts import cluster_counts, count_array, macro_f1
from clipaffect.postprocess.smoothing import sequences
from clipaffect.report import figures
from clipaffect.report.headline import LEVEL
from clipaffect.report.results import read_summary, unit_of
from clipaffect.studies.card import Card, CardSection, write_card_page

TINY = 1e-7
ODDS = 2.0  # how many times as probable as the annotated answer another one must be
MOST = 1000  # segments that are listed
SHORTEST = 3  # frames of a stretch of suspects
LARGEST_SHIFT = 15  # frames, each way


@dataclass(frozen=True)
class Element:
    """Every loss that CVaR sorts: one a frame for classes, one a frame and label otherwise.

    Attributes:
        row: (m,) which frame.
        target: (m,) the annotated class, or the label.
        loss: (m,) minus the log probability of what is annotated.
    """

    row: np.ndarray
    target: np.ndarray
    loss: np.ndarray


def elements(labels: np.ndarray, scores: np.ndarray, task: Task, over: str = "elements") -> Element:
    """The losses of probabilities (n, targets); what is not annotated has none.

    ``over`` is the recipe's ``loss_over``: of ``samples`` every label has its frame's mean loss.
    """
    scores = np.clip(scores.astype(np.float64), TINY, 1 - TINY)
    if not task.multilabel:
        rows = np.arange(len(labels))
        return Element(rows, labels[:, 0].astype(int), -np.log(scores[rows, labels[:, 0]]))
    row, target = np.nonzero(labels != NOT_ANNOTATED)
    target = target.astype(np.int16)  # 16 million of them at full size
    found = np.where(labels[row, target] == 1, scores[row, target], 1 - scores[row, target])
    loss = -np.log(found)
    if over == "samples":
        loss = (np.bincount(row, loss) / np.maximum(np.bincount(row), 1))[row]
    return Element(row, target, loss)


def in_tail(loss: np.ndarray, alpha: float) -> np.ndarray:
    """(m,) bool: the worst alpha of the losses, at least one."""
    count = max(1, round(alpha * len(loss)))
    found = np.zeros(len(loss), bool)
    found[np.argsort(-loss, kind="stable")[:count]] = True
    return found


def shares(names: pd.Categorical, tail: np.ndarray) -> pd.DataFrame:
    """For each name its share of all losses, of the tail, and how many times as frequent it is
    there; the most over-represented first.
    """
    frame = pd.DataFrame({"name": names, "tail": tail})
    counts = frame.groupby("name", observed=True)["tail"].agg(["size", "sum"])
    found = pd.DataFrame(
        {
            "losses": counts["size"],
            "share": counts["size"] / len(frame),
            "share_of_tail": counts["sum"] / max(1, tail.sum()),
        }
    )
    found["times"] = found["share_of_tail"] / found["share"]
    found.index = found.index.astype(str)
    return found.sort_values("times", ascending=False, kind="stable").reset_index()


def suspects(
    rows: pd.DataFrame, labels: np.ndarray, scores: np.ndarray, task: Task
) -> pd.DataFrame:
    """Stretches of frames whose labels are contradicted by heads that never saw the person.

    A frame is a suspect where another answer is at least ``ODDS`` times as probable as the
    annotated one. Neighbouring suspects of one kind are a stretch; those shorter than ``SHORTEST``
    are not listed. The first have the largest evidence: the sum of the log odds over their frames.
    No certainty is asked for: heads that were trained on wrong labels are seldom certain.

    Returns:
        Columns video, person, first, last, frames, annotated, said, probability, evidence.
    """
    found: list[dict[str, Any]] = []
    targets = range(len(task.targets)) if task.multilabel else [0]
    for target in targets:
        given, said, probability, odds = _doubts(labels, scores, target, task)
        doubted = odds > np.log(ODDS)
        for at, frames in sequences(rows):
            flagged = doubted[at]
            kind = given[at] * len(task.targets) + said[at]
            breaks = np.flatnonzero(
                (np.diff(flagged.astype(int)) != 0) | (np.diff(kind) != 0) | (np.diff(frames) != 1)
            )
            for part in np.split(np.arange(len(at)), breaks + 1):
                if flagged[part[0]] and len(part) >= SHORTEST:
                    first = at[part[0]]
                    found.append(
                        {
                            "video": rows["video"].iloc[first],
                            "person": rows["person"].iloc[first],
                            "first": int(frames[part[0]]),
                            "last": int(frames[part[-1]]),
                            "frames": len(part),
                            "annotated": _name(task, target, int(given[first])),
                            "said": _name(task, target, int(said[first])),
                            "probability": float(probability[at[part]].mean()),
                            "evidence": float(odds[at[part]].sum()),
                        }
                    )
    columns = ["video", "person", "first", "last", "frames", "annotated", "said", "probability"]
    table = pd.DataFrame(found, columns=[*columns, "evidence"])
    table = table.sort_values(
        ["evidence", "video", "first"], ascending=[False, True, True], ignore_index=True
    )
    return table.head(MOST)


def _doubts(
    labels: np.ndarray, scores: np.ndarray, target: int, task: Task
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Annotation, the most probable other answer, its probability, and its log odds to it."""
    scores = np.clip(scores.astype(np.float64), TINY, 1 - TINY)
    if task.multilabel:
        given = labels[:, target].astype(int)
        probability = np.where(given == 1, 1 - scores[:, target], scores[:, target])
        odds = np.log(probability) - np.log(1 - probability)
        return given, 1 - given, probability, np.where(given == NOT_ANNOTATED, -np.inf, odds)
    given, rows = labels[:, 0].astype(int), np.arange(len(labels))
    own = scores[rows, given]
    others = scores.copy()
    others[rows, given] = 0
    said = others.argmax(axis=1)
    probability = others[rows, said]
    return given, said, probability, np.log(probability) - np.log(own)


def _name(task: Task, target: int, value: int) -> str:
    if not task.multilabel:
        return task.targets[value]
    return f"{task.targets[target]} {'present' if value == 1 else 'absent'}"


def lags(
    rows: pd.DataFrame, labels: np.ndarray, scores: np.ndarray, task: Task, resamples: int
) -> pd.DataFrame:
    """Macro F1 of the labels against the scores of frames before (shift < 0) and behind them.

    Only frames whose neighbours are all there count, the same for every shift. If labels are set
    late by k frames, what they say was to be seen k frames earlier: the best shift is -k. Columns
    shift, macro_f1, difference (to no shift), p_adjusted (Holm over all shifts).
    """
    reach = np.arange(-LARGEST_SHIFT, LARGEST_SHIFT + 1)
    centre, partner = [], []
    for at, frames in sequences(rows):
        place = pd.Series(at, index=frames)
        wanted = frames[:, None] + reach
        found = place.reindex(wanted.ravel()).to_numpy().reshape(wanted.shape)
        whole = ~np.isnan(found).any(axis=1)
        centre.append(at[whole])
        partner.append(found[whole].astype(int))
    mine, theirs = np.concatenate(centre), np.concatenate(partner)
    columns = ["shift", "macro_f1", "difference", "p_adjusted"]
    if not len(mine):
        return pd.DataFrame(columns=columns)
    groups = rows["group"].astype(str).to_numpy()[mine]
    people = sorted(set(groups))
    counts = {
        int(shift): count_array(
            cluster_counts(labels[mine], decide(scores[theirs[:, k]], task), groups, task),
            people,
            task.targets,
        )
        for k, shift in enumerate(reach)
    }
    level = {shift: float(macro_f1(own.sum(axis=0))) for shift, own in counts.items()}
    p = [
        swap_test([own], [counts[0]], resamples) if len(people) >= FEWEST else float("nan")
        for own in counts.values()
    ]
    adjusted = holm(p) if len(people) >= FEWEST else p
    return pd.DataFrame(
        {
            "shift": list(counts),
            "macro_f1": list(level.values()),
            "difference": [level[s] - level[0] for s in counts],
            "p_adjusted": adjusted,
        }
    )


QUESTION = "What fills the worst losses, and are the labels right?"


@dataclass(frozen=True)
class Tail:
    """One task's tables; see ``tail``."""

    alpha: float
    targets: pd.DataFrame
    people: pd.DataFrame
    videos: pd.DataFrame
    suspects: pd.DataFrame
    lags: pd.DataFrame


def find_tail(
    frame: pd.DataFrame,
    scores: np.ndarray,
    task: Task,
    alpha: float,
    resamples: int,
    over: str = "elements",
) -> Tail:
    """The tail of cross-fitted rows (group, video, person, frame, labels) and their scores."""
    labels = frame[list(task.columns)].to_numpy()
    losses = elements(labels, scores, task, over)
    tail = in_tail(losses.loss, alpha)
    rows = frame[["group", "video", "person", "frame"]]
    return Tail(
        alpha,
        shares(pd.Categorical.from_codes(losses.target, list(task.targets)), tail),
        shares(pd.Categorical(rows["group"])[losses.row], tail),
        shares(pd.Categorical(rows["video"])[losses.row], tail),
        suspects(rows, labels, scores, task),
        lags(rows, labels, scores, task, resamples),
    )


def tail_answer(name: str, card: Tail, unit: str) -> str:
    """The sentence that sums up a card, computed from its tables alone."""
    people = card.people.sort_values("share_of_tail", ascending=False)
    top = people.head(max(1, round(len(people) / 10)))
    target = card.targets.iloc[0]
    of_worst, of_all = (_percent(top[column].sum()) for column in ("share_of_tail", "share"))
    text = (
        f"{name}: {len(top)} of {len(people)} {unit} hold {of_worst} of the worst "
        f"{_percent(card.alpha)} of the losses, and {of_all} of all losses; {target['name']} is "
        f"{target['times']:.1f} times as frequent there as overall. "
    )
    count, frames = len(card.suspects), int(card.suspects["frames"].sum())
    text += (
        f"{count} stretches ({frames:,} frames) contradict heads that never saw the person. "
        if count
        else "No stretch of labels contradicts heads that never saw the person. "
    )
    return text + _lag(card.lags)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _lag(table: pd.DataFrame) -> str:
    if table.empty:
        return "No frame has enough neighbours to look for a lag."
    best = table.loc[table["difference"].idxmax()]
    if best["shift"] == 0:
        return "Labels fit best without a shift."
    when = "late" if best["shift"] < 0 else "early"
    frames = abs(int(best["shift"]))
    by = f"{frames} frame{'s' if frames > 1 else ''} {when} ({best['difference']:+.3f}"
    if np.isnan(best["p_adjusted"]):
        return f"Labels fit best if they are {by}); too few people to test."
    by = f"{by}, p = {best['p_adjusted']:.2g})."
    if best["p_adjusted"] < LEVEL:
        return f"Labels are {by}"
    return f"No significant lag: labels would fit best if they were {by}"


def _lag_chart(table: pd.DataFrame) -> figures.Spec:
    base = figures.chart_of(table)
    x = alt.X("shift:Q", title="score taken this many frames behind the label")
    y = alt.Y("macro_f1:Q", title="macro F1", scale=alt.Scale(zero=False))
    line = base.mark_line(color=figures.ACCENT).encode(x=x, y=y)
    points = base.mark_point(color=figures.ACCENT, filled=True, opacity=1).encode(
        x=x, y=y, tooltip=["shift:Q", alt.Tooltip("macro_f1:Q", format=".3f", title="macro F1")]
    )
    return figures.finish(
        alt.layer(line, points),
        "Line chart of macro F1 of the labels against scores of earlier and later frames; the "
        "same numbers are in lags.csv.",
        220,
    )


def write_tail_card(config: Config, folder: Path, out: Path) -> None:
    """Write the card's ``index.html``, ``answer.json``, tables and figures to ``out``.

    Args:
        config: of the run.
        folder: ``results/<run>``, with the cross-fitted scores.
        out: the study's folder.
    """
    alpha, resamples = config.training.headline_alpha, config.evaluation.resamples
    unit = unit_of(read_summary(folder))
    answers: dict[str, str] = {}
    sections: list[CardSection] = []
    for name, task in config.tasks().items():
        frame, scores = read_scores(Layout(folder).postprocessing(name).cross_fitted)
        # Under k-fold evaluation a row was cross-fitted in several folds: those of one are enough.
        own = (frame["fold"] == frame["fold"].min()).to_numpy()
        frame, scores = frame[own].reset_index(drop=True), scores[own]
        if frame.empty:
            answers[name] = f"{name}: there are no cross-fitted scores; see the report."
            continue
        tail = find_tail(frame, scores, task, alpha, resamples, config.training.loss_over)
        answers[name] = tail_answer(name, tail, unit)
        sections += _sections(name, tail, unit)
    card = Card(
        QUESTION,
        f"CVaR trains on the worst losses of the training {unit}; this says what they are.",
        answers,
        sections,
        f"All of it on training frames, scored by heads that were trained without the {unit} in "
        f"question ({config.postprocess.folds} parts), mean over seeds.",
    )
    write_card_page(card, config.run, out)


def _sections(task: str, tail: Tail, unit: str) -> Iterator[CardSection]:
    worst = f"the worst {tail.alpha:.0%} of the losses"
    yield CardSection(task, f"targets_{task}", f"Which answers fill {worst}.", tail.targets)
    yield CardSection("", f"people_{task}", f"Which {unit} fill them.", tail.people)
    yield CardSection("", f"videos_{task}", "Which videos.", tail.videos)
    yield CardSection(
        "",
        f"suspects_{task}",
        "Labels to review: segments in which another answer is at least twice as probable as the "
        "annotated one, the strongest evidence first. A head may be wrong, too.",
        tail.suspects,
    )
    if len(tail.lags):
        yield CardSection(
            "",
            f"lags_{task}",
            "Labels compared with the scores of earlier (negative) and later frames of the same "
            "person. A peak left of 0: labels are set late.",
            tail.lags,
            _lag_chart(tail.lags),
        )
