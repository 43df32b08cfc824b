"""Choose the heads that predict the frames of a submission, and the steps that follow them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from clipaffect.config.models import SubmissionEntry
from clipaffect.config.training import Training
from clipaffect.core.errors import UserError
from clipaffect.core.files import read_json
from clipaffect.core.layout import FinalHeads, Postprocessing
from clipaffect.core.split_names import EVERYBODY
from clipaffect.core.tasks import Task
from clipaffect.postprocess.steps import Choice
from clipaffect.training.build_head import build_head
from clipaffect.training.seed_heads import read_seed_heads
from clipaffect.training.train_heads import finished_heads, load_head

ByName = dict[str, nn.Module]


@dataclass(frozen=True)
class SubmittedHeads:
    """The heads that predict a submission.

    Attributes:
        by_features: the heads on the features of each encoder by name, the run's own first. The
            name of a head that belongs to a seed is ``seed=<seed>``.
        steps: post-processing steps with their choices, in order.
        alpha: of the heads; None if their loss has none.
        trained_on: ``everybody``, or ``training people`` (of each fold, where there are folds).
    """

    by_features: dict[str, ByName]
    steps: list[tuple[str, Choice]]
    alpha: float | None
    trained_on: str

    def places(self, features: str) -> list[int]:
        """The place of each of another encoder's heads among the run's own; -1 if it has none."""
        own = list(next(iter(self.by_features.values())))
        return [own.index(name) if name in own else -1 for name in self.by_features[features]]

    def said(self) -> dict[str, Any]:
        """What ``coverage.json`` says about the heads."""
        return {
            "alpha": self.alpha,
            "heads": {features: list(heads) for features, heads in self.by_features.items()},
            "heads_trained_on": self.trained_on,
            "steps": [{"step": name, "choice": choice} for name, choice in self.steps],
        }


def submitted_heads(
    entry: SubmissionEntry,
    encoder: str,
    inputs: dict[str, int],
    task: Task,
    settings: Training,
    grid: list[Path],
    postprocessing: Path | None,
    final: Path | None,
) -> SubmittedHeads:
    """The heads and steps of an entry.

    Args:
        entry: variant and alpha.
        encoder: the run's own.
        inputs: the dimension of each encoder's features.
        task: the task.
        settings: the ``training`` section.
        grid: folders of the grid's heads, one for each part.
        postprocessing: folder of the steps that follow; None for none.
        final: folder of the heads that were trained on everybody; None to use the grid's.

    Raises:
        UserError: no such head has finished.
    """
    alpha = settings.headline_alpha if entry.alpha is None else entry.alpha
    steps = read_json(Postprocessing(postprocessing).choices)["final"] if postprocessing else []
    chosen = [(step["step"], step["choice"]) for step in steps]
    others = [name for _, choice in chosen for name in choice.get("with", [])]
    if final:
        weights, names = FinalHeads(final).weights, [encoder, *others]
        by_features = {n: _read_heads(weights, n, inputs[n], task, settings) for n in names}
        return SubmittedHeads(by_features, chosen, alpha, EVERYBODY)
    listed = finished_heads(grid)
    level = listed["alpha"].isin([alpha]) | listed["alpha"].isna()
    rows = listed[(listed["variant"] == entry.variant) & level & (listed["status"] == "ok")]
    if rows.empty:
        raise UserError(
            f"no head of {task.name} at alpha = {alpha:g} finished training",
            where="training",
            fix="check the status of the heads in the report, and choose another alpha",
        )
    own = {}
    for _, row in rows.sort_values("head").iterrows():
        # With folds or a variant, heads of other encoders are not averaged with these.
        name = f"seed={row['seed']}" if others else str(row["head"])
        own[name] = load_head(row, task, settings, inputs[encoder])
    known = None if listed["alpha"][rows.index].isna().all() else alpha
    by_features = {encoder: own}
    if postprocessing:
        weights = Postprocessing(postprocessing).heads
        by_features |= {n: _read_heads(weights, n, inputs[n], task, settings) for n in others}
    return SubmittedHeads(by_features, chosen, known, "training people")


def _read_heads(path: Path, features: str, inputs: int, task: Task, settings: Training) -> ByName:
    """The headline heads on one encoder's features of a file, in evaluation mode."""
    found = {}
    for seed, weights in read_seed_heads(path, features).items():
        head = build_head(settings.recipes()[""], inputs, len(task.targets), seed)
        head.load_state_dict(weights)
        found[f"seed={seed}"] = head.eval()
    return found
