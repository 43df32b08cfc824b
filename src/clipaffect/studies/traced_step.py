"""The card that traces all numbers of one training step.

The step is the run's own first one at the headline's alpha, taken by the plain definition in
``training.sam`` in float64: frames, losses, lambda, weights, gradient, SAM's perturbation, the
second gradient, AdamW's update.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipaffect.config.models import Config
from clipaffect.config.training import Recipe
from clipaffect.core.frame_status import KEYS
from clipaffect.core.layout import Layout
from clipaffect.core.split_names import TRAIN, VALIDATION
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.features.build_table import folds_of
from clipaffect.report import figures
from clipaffect.studies.card import Card, CardSection, first_fold_only, write_card_page
from clipaffect.training.backends.autograd import AutogradLearner, build_objective
from clipaffect.training.build_head import build_head
from clipaffect.training.data import TrainingData, batches, read_split, training_data
from clipaffect.training.history import learning_rate
from clipaffect.training.sam import StepTrace, frozen_statistics

QUESTION = "What happens in one training step?"


@dataclass(frozen=True)
class Traced:
    """A step and what surrounds it.

    Attributes:
        trace: the step.
        names: of the head's weights, in order.
        before, after: the weights.
        value_after: the objective on the batch after the update, under the same dropout masks.
        turned: degrees between the gradients at w and w + epsilon under the same dropout masks; NaN
            without SAM.
        losses: a row for each single loss, the largest first: frame, target, loss, weight.
        rate: AdamW's.
    """

    trace: StepTrace
    names: list[str]
    before: list[Tensor]
    after: list[Tensor]
    value_after: float
    turned: float
    losses: pd.DataFrame
    rate: float


def trace_first_step(
    data: TrainingData, rows: pd.DataFrame, task: Task, recipe: Recipe, alpha: float, seed: int
) -> Traced:
    """Take the first step of a head in float64.

    Args:
        data: see ``training_data``.
        rows: (N,) video, person, frame of its training rows.
        task: the task.
        recipe: the head's.
        alpha: CVaR's level.
        seed: of initialisation, batches and dropout.
    """
    torch.set_num_threads(1)
    chosen = batches(data.rows, recipe.batch, seed, 0)[0]
    x, y = data.features[chosen].double(), data.labels[chosen]
    head = build_head(recipe, x.shape[1], len(task.targets), seed).double()
    objective = build_objective(recipe, alpha, data.labels[torch.from_numpy(data.rows)], task)
    learner = AutogradLearner(head, objective, recipe, seed)
    before = [p.detach().clone() for p in head.parameters()]
    rate = learning_rate(recipe, 0)
    trace = learner.trace(x, y, 0, rate, probe=True)
    after = [p.detach().clone() for p in head.parameters()]
    value_after = learner.evaluate(x, y, 0, 0).value
    turned = float("nan")
    if trace.perturbation:
        # The second pass draws masks of its own; under the first one's only epsilon is left.
        there = [w + e for w, e in zip(before, trace.perturbation, strict=True)]
        turned = _angle(trace.gradient, _gradient(learner, there, x, y))
        with torch.no_grad():
            for p, own in zip(head.parameters(), after, strict=True):
                p.copy_(own)
    losses = _losses(trace, rows.iloc[chosen.numpy()], y, task, recipe)
    names = [name for name, _ in head.named_parameters()]
    return Traced(trace, names, before, after, value_after, turned, losses, rate)


def _gradient(
    learner: AutogradLearner, weights: list[Tensor], x: Tensor, y: Tensor
) -> list[Tensor]:
    """The objective's gradient at other weights, under the first pass's dropout masks."""
    parameters = list(learner.head.parameters())
    with torch.no_grad():
        for p, own in zip(parameters, weights, strict=True):
            p.copy_(own)
    with frozen_statistics(learner.head):
        surrogate = learner.evaluate(x, y, 0, 0).surrogate
        found = torch.autograd.grad(surrogate, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def _losses(
    trace: StepTrace, rows: pd.DataFrame, labels: Tensor, task: Task, recipe: Recipe
) -> pd.DataFrame:
    first = trace.first
    columns = [*KEYS, "annotated", "loss", "weight"]
    if not first.losses.numel():  # a loss of the user's has no single ones
        return pd.DataFrame(columns=columns)
    values, weights = first.losses.numpy(), first.weights.detach().numpy()
    annotations = labels.numpy()
    if task.multilabel and recipe.loss_over == "elements":  # one a frame and label, flat
        at, target = np.nonzero(annotations != NOT_ANNOTATED)
        values, weights = (own.reshape(annotations.shape)[at, target] for own in (values, weights))
        said = [
            f"{task.targets[t]} {'present' if annotations[a, t] == 1 else 'absent'}"
            for a, t in zip(at, target, strict=True)
        ]
    else:
        at = np.arange(len(values))
        said = [_annotation(own, task) for own in annotations]
    table = rows[KEYS].iloc[at].reset_index(drop=True)
    table = table.assign(annotated=said, loss=values, weight=weights)
    return table.sort_values("loss", ascending=False, kind="stable", ignore_index=True)


def _annotation(labels: np.ndarray, task: Task) -> str:
    if not task.multilabel:
        return task.targets[int(labels[0])]
    shown = [name for name, bit in zip(task.targets, labels, strict=True) if bit == 1]
    return " ".join(shown) or "none"


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([t.flatten() for t in tensors]).norm()) if tensors else 0.0


def _angle(one: list[Tensor], other: list[Tensor]) -> float:
    """Degrees between two lists of tensors, each as one vector."""
    a, b = (torch.cat([t.flatten() for t in own]) for own in (one, other))
    cosine = float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def layer_table(traced: Traced) -> pd.DataFrame:
    """L2 norms by the name of the weights, and over all of them."""
    moved = [b - a for a, b in zip(traced.before, traced.after, strict=True)]
    trace = traced.trace
    columns = {
        "weights": traced.before,
        "gradient": trace.gradient,
        "perturbation": trace.perturbation or [torch.zeros_like(p) for p in traced.before],
        "second gradient": trace.update_gradient,
        "update": moved,
    }
    rows = [
        {"weights of": name, "count": own.numel()}
        | {key: float(values[k].norm()) for key, values in columns.items()}
        for k, (name, own) in enumerate(zip(traced.names, traced.before, strict=True))
    ]
    total = {"weights of": "all", "count": sum(p.numel() for p in traced.before)}
    return pd.DataFrame([*rows, total | {key: _norm(own) for key, own in columns.items()}])


def number_table(traced: Traced, alpha: float, recipe: Recipe) -> pd.DataFrame:
    """The step's single numbers, each with the formula that it is the value of."""
    trace, first = traced.trace, traced.trace.first
    losses = traced.losses["loss"].to_numpy(float)
    rows: list[tuple[str, str, float]] = [("mean loss", "mean of the losses", first.mean_loss)]
    if not np.isnan(first.threshold):
        above = float(np.maximum(losses - first.threshold, 0).mean())
        rows += [
            ("lambda", f"the {1 - alpha:g} quantile of the losses", first.threshold),
            (
                "CVaR by its definition",
                "lambda + mean(relu(loss - lambda)) / alpha",
                first.threshold + above / alpha,
            ),
            (
                "CVaR by its weights",
                "sum of weight x loss",
                float((traced.losses["weight"] * losses).sum()),
            ),
        ]
    rows += [
        ("objective", "what the gradient is of", first.value),
        ("gradient", "|g|, L2 over all weights", trace.record.gradient_norm),
    ]
    if trace.second is not None:
        form = "rho g / |g|" if recipe.perturbation == "l2" else "rho sign(g)"
        foreseen = sum(
            float((g * e).sum()) for g, e in zip(trace.gradient, trace.perturbation, strict=True)
        )
        rows += [
            (
                "perturbation",
                f"|epsilon|, epsilon = {form}, rho = {recipe.rho:g}",
                trace.record.perturbation_norm,
            ),
            ("rise foreseen", "g . epsilon, to first order", foreseen),
            ("rise found", "objective at w + epsilon less at w", trace.record.sharpness),
            ("second gradient", "|g'| at w + epsilon", _norm(trace.update_gradient)),
            ("angle by epsilon", "degrees between g and g' under the same dropout", traced.turned),
            (
                "angle",
                "degrees between g and g', which has dropout masks of its own",
                _angle(trace.gradient, trace.update_gradient),
            ),
        ]
    moved = [b - a for a, b in zip(traced.before, traced.after, strict=True)]
    rows += [
        ("learning rate", "AdamW's in epoch 1", traced.rate),
        ("update", "|w' - w|", _norm(moved)),
        ("objective afterwards", "on the same batch, under the same dropout", traced.value_after),
    ]
    return pd.DataFrame(rows, columns=["what", "how", "value"])


def step_answer(name: str, traced: Traced, alpha: float) -> str:
    """What the step's numbers say."""
    trace, first = traced.trace, traced.trace.first
    text = f"{name}: "
    if len(traced.losses) and not np.isnan(first.threshold):
        weights = traced.losses["weight"]
        text += (
            f"{int((weights > 0).sum())} of {len(weights)} losses carry the weight at alpha = "
            f"{alpha:g}; those above lambda = {first.threshold:.3f} average {first.value:.3f}, all "
            f"of them {first.mean_loss:.3f}. "
        )
    if trace.second is not None:
        text += (
            f"SAM climbs {trace.record.perturbation_norm:.3g} along the gradient, where the "
            f"objective is {trace.record.sharpness:+.3f} higher, and the gradient is turned "
            f"by {traced.turned:.0f} degrees. "
        )
    return (
        text + f"The update takes the objective on this batch from {first.value:.3f} to "
        f"{traced.value_after:.3f}."
    )


def _chart(losses: pd.DataFrame, threshold: float) -> figures.Spec:
    table = losses.assign(rank=np.arange(1, len(losses) + 1), counts=losses["weight"] > 0)
    table = table.assign(counts=np.where(table["counts"], "in the tail", "below lambda"))
    x = alt.X("rank:Q", title="losses, the largest first")
    bars = (
        figures.chart_of(table)
        .mark_rule(strokeWidth=3)
        .encode(
            x=x,
            y=alt.Y("loss:Q", title="loss"),
            color=alt.Color(
                "counts:N",
                title=None,
                scale=alt.Scale(
                    domain=["in the tail", "below lambda"], range=[figures.ACCENT, figures.SOFT]
                ),
            ),
            tooltip=figures.tooltips(
                ("annotated:N", "annotated"),
                ("video:N", "video"),
                ("loss:Q", "loss"),
                ("weight:Q", "weight"),
            ),
        )
    )
    layers = [bars]
    if not np.isnan(threshold):
        rule = figures.chart_of(pd.DataFrame({"loss": [threshold]}))
        layers.append(rule.mark_rule(strokeDash=[5, 3]).encode(y="loss:Q"))
    return figures.finish(
        alt.layer(*layers),
        "Bar chart of the batch's losses in falling order; those that carry weight are dark, and "
        "lambda is a dashed line. The same numbers are in the table.",
        240,
    )


def write_traced_step(config: Config, folder: Path, out: Path) -> None:
    """Write the card to ``out`` from the tables in ``folder``, ``results/<run>``."""
    training = config.training
    recipe, alpha, seed = training.recipes()[""], training.headline_alpha, training.seeds[0]
    answers: dict[str, str] = {}
    sections: list[CardSection] = []
    for name, task in config.tasks().items():
        table = Layout(folder).table(config.encoder, name).folder
        fold = folds_of(table)[0]
        train, validation = (read_split(table, task, s, fold) for s in (TRAIN, VALIDATION))
        data = training_data(train, validation, task, recipe)
        traced = trace_first_step(data, train.rows, task, recipe, alpha, seed)
        answers[name] = step_answer(name, traced, alpha)
        numbers = number_table(traced, alpha, recipe)
        sections.append(
            CardSection(name, f"numbers_{name}", "The step, from top to bottom.", numbers)
        )
        if len(traced.losses):
            chart = _chart(traced.losses, traced.trace.first.threshold)
            sections.append(
                CardSection(
                    "",
                    f"losses_{name}",
                    "The batch's losses, sorted, with the weight that the risk gives each.",
                    traced.losses,
                    chart,
                )
            )
        sections.append(
            CardSection("", f"layers_{name}", "L2 norms by weights.", layer_table(traced))
        )
    card = Card(
        QUESTION,
        f"The first step of the run's own head at alpha = {alpha:g}, seed {seed}: its batch of "
        f"{recipe.batch} frames, its dropout masks, its numbers.",
        answers,
        sections,
        "Taken in float64 by the plain definition that the fast training step is tested against. "
        f"{first_fold_only(folder / 'tables' / config.encoder, config.tasks())}",
    )
    write_card_page(card, config.run, out)
