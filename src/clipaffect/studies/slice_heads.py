"""The card on the flatness of the loss around trained heads: 1D slices and sharpness.

A slice is the mean loss along a random direction that is scaled filter by filter to the weights
(Li et al. 2018, section 4), so that heads whose weights differ in size can be compared. It is taken
on the layers as they answer: BatchNorm's statistics folded in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau
from torch import Tensor

from clipaffect.config.models import Config
from clipaffect.config.studies import Study, plan_study
from clipaffect.core.layout import Layout
from clipaffect.core.split_names import TRAIN, VALIDATION
from clipaffect.core.tasks import Task
from clipaffect.features.build_table import folds_of
from clipaffect.report import figures
from clipaffect.report.headline import LEVEL
from clipaffect.studies.card import Card, CardSection, first_fold_only, write_card_page
from clipaffect.training.data import Split, read_split
from clipaffect.training.history import challenge_score, probabilities, spread
from clipaffect.training.losses.base import single_losses
from clipaffect.training.mlp_head import Head, evaluator, folded_logits
from clipaffect.training.train_heads import finished_heads, load_head

QUESTION = "Is the loss flatter around heads that were trained with SAM?"
STUDY = "sharpness"  # whose heads are looked at
FRAMES = 1024  # of each split, evenly spread
DIRECTIONS = 3
STEPS = np.linspace(-1, 1, 13)  # in units of the weights' own size
RADIUS = 0.05  # of the step along the gradient
OWN = "the run's own"

Layers = list[tuple[Tensor, Tensor]]


def directions(layers: Layers, count: int, seed: int) -> list[list[Tensor]]:
    """Random directions in weight space; each row is scaled to the norm of the row that it moves.

    Biases stay where they are.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        drawn = [torch.randn(weight.shape, generator=generator) for weight, _ in layers]
        found.append(
            [
                d / d.norm(dim=1, keepdim=True).clamp_min(1e-12) * weight.norm(dim=1, keepdim=True)
                for d, (weight, _) in zip(drawn, layers, strict=True)
            ]
        )
    return found


def moved(layers: Layers, direction: list[Tensor], step: float) -> Layers:
    """The layers with their weights moved along a direction."""
    return [(w + step * d, b) for (w, b), d in zip(layers, direction, strict=True)]


def mean_loss(layers: Layers, split: Split, task: Task) -> Tensor:
    """Mean of the annotated losses of a sample of a split, in evaluation mode."""
    return _mean(folded_logits(layers, split.features.float()), split.labels, task)


def _mean(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    losses = single_losses(logits, labels, task, "elements", False)
    return losses.values.mean() if losses.known is None else losses.values[losses.known].mean()


def rise_along_gradient(layers: Layers, split: Split, task: Task, radius: float) -> float:
    """How much the mean loss rises by a step of L2 norm ``radius`` along its gradient."""
    weights = [weight.clone().requires_grad_(True) for weight, _ in layers]
    x = split.features.float()  # as ``folded_logits``, whose products have no gradient
    for weight, (_, bias) in zip(weights[:-1], layers[:-1], strict=True):
        x = torch.relu(x @ weight.T + bias)
    loss = _mean(x @ weights[-1].T + layers[-1][1], split.labels, task)
    gradient = torch.autograd.grad(loss, weights)
    norm = torch.cat([g.flatten() for g in gradient]).norm().clamp_min(1e-12)
    there = moved(layers, list(gradient), radius / float(norm))
    return float(mean_loss(there, split, task) - loss.detach())


def _sample(split: Split) -> Split:
    at = torch.from_numpy(spread(FRAMES, len(split.labels)))
    return Split(split.rows.iloc[at.numpy()], split.features[at], split.labels[at].to(torch.int64))


def loss_slices(
    config: Config, table: Path, bundle: Path, task: Task
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Slices and sharpness of the study's heads at the headline's alpha.

    Returns:
        A row a recipe, split and step with its mean ``loss`` over seeds and directions; a row a
        head: recipe, seed, ``rise_random`` (mean at steps of half the weights' size, training
        frames), ``rise_gradient``, macro F1 on the validation split.
    """
    torch.set_num_threads(1)
    fold = folds_of(table)[0]
    whole = {name: read_split(table, task, name, fold) for name in (TRAIN, VALIDATION)}
    samples = {name: _sample(split) for name, split in whole.items()}
    settings = config.training
    listed = finished_heads([bundle])
    listed = listed[(listed["status"] == "ok") & (listed["alpha"] == settings.headline_alpha)]
    curves: list[dict[str, Any]] = []
    sharpness: list[dict[str, Any]] = []
    for _, row in listed[listed["fold"] == fold].iterrows():
        head = load_head(row, task, settings, whole[TRAIN].features.shape[1])
        if not isinstance(head, Head):  # one of the user's has no layers that are known
            continue
        recipe, layers = row["variant"] or OWN, head.folded()
        for number, direction in enumerate(directions(layers, DIRECTIONS, int(row["seed"]))):
            for step in STEPS:
                there = moved(layers, direction, float(step))
                for split, sample in samples.items():
                    curves.append(
                        {
                            "recipe": recipe,
                            "split": split,
                            "seed": int(row["seed"]),
                            "direction": number,
                            "step": float(step),
                            "loss": float(mean_loss(there, sample, task)),
                        }
                    )
        sharpness.append(
            {
                "recipe": recipe,
                "rho": settings.recipes()[row["variant"]].rho,
                "seed": int(row["seed"]),
                "rise_gradient": rise_along_gradient(layers, samples[TRAIN], task, RADIUS),
                "macro_f1": _macro_f1(head, whole[VALIDATION], task),
            }
        )
    lines = pd.DataFrame(curves, columns=["recipe", "split", "seed", "direction", "step", "loss"])
    heads = pd.DataFrame(sharpness, columns=["recipe", "rho", "seed", "rise_gradient", "macro_f1"])
    heads["rise_random"] = [_rise(lines, head) for head in heads.itertuples()]
    mean = lines.groupby(["recipe", "split", "step"], sort=False)["loss"].mean().reset_index()
    columns = ["recipe", "rho", "seed", "rise_random", "rise_gradient", "macro_f1"]
    return mean, heads[columns]


def _rise(lines: pd.DataFrame, head: Any) -> float:
    own = lines[
        (lines["recipe"] == head.recipe) & (lines["seed"] == head.seed) & (lines["split"] == TRAIN)
    ]
    middle = own.loc[own["step"].abs() < 1e-9, "loss"].mean()
    return float(own.loc[np.isclose(own["step"].abs(), 0.5), "loss"].mean() - middle)


def _macro_f1(head: Head, split: Split, task: Task) -> float:
    every = np.arange(len(split.labels))
    scores = probabilities(evaluator(head), split.features, every, task)
    return challenge_score(scores, split.labels.numpy(), task)


def slices_answer(name: str, heads: pd.DataFrame) -> str:
    """What the sharpness of the heads says of one task."""
    means = heads.groupby("recipe", sort=False).mean(numeric_only=True)
    plain = means[means["rho"] == 0]
    if plain.empty or OWN not in means.index or means.loc[OWN, "rho"] == 0:
        return f"{name}: there are no heads with and without SAM to compare."
    own, other = heads[heads["recipe"] == OWN], heads[heads["recipe"] == plain.index[0]]
    pairs = own.merge(other, on="seed", suffixes=("", "_plain"))
    parts = []
    for column, what in (("rise_random", "a random direction"), ("rise_gradient", "the gradient")):
        flatter = int((pairs[column] < pairs[f"{column}_plain"]).sum())
        parts.append(
            f"{pairs[column].mean():.3g} along {what} ({pairs[f'{column}_plain'].mean():.3g} "
            f"without it; less in {flatter} of {len(pairs)} seeds)"
        )
    text = f"{name}: with SAM the loss rises by {' and by '.join(parts)}; "
    if len(means) < 3:
        return text + "too few recipes to compare this with the score."
    found = kendalltau(means["rise_random"], means["macro_f1"])
    if np.isnan(found.statistic) or found.pvalue >= LEVEL:
        said = f"over {len(means)} recipes it is not shown that flatter heads score better"
    else:
        word = "better" if found.statistic < 0 else "worse"
        said = f"over {len(means)} recipes flatter heads score {word}"
    return f"{text}{said} (Kendall's tau {found.statistic:+.2f}, p = {found.pvalue:.2g})."


def _chart(lines: pd.DataFrame, height: int = 300) -> figures.Spec:
    chart = (
        figures.chart_of(lines)
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="step, in units of the weights' own size"),
            y=alt.Y("loss:Q", title="mean loss"),
            color=alt.Color("recipe:N", title=None, scale=alt.Scale(scheme="tableau10")),
            strokeDash=alt.StrokeDash("split:N", title=None, sort=[TRAIN, VALIDATION]),
            tooltip=figures.tooltips(
                ("recipe:N", "recipe"), ("split:N", "split"), ("step:Q", "step"), ("loss:Q", "loss")
            ),
        )
    )
    return figures.finish(
        alt.layer(chart),
        "Line chart of the mean loss over the step along random directions around trained heads, a "
        "line for each recipe and split; the same numbers are in slices.csv.",
        height,
    )


def slice_heads(config: Config, study: Study, folder: Path, out: Path) -> None:
    """Write the card to ``out``.

    Args:
        config: of the run.
        study: the one whose heads are looked at.
        folder: ``results/<run>``, with that study's heads.
        out: the card's folder.
    """
    own = plan_study(config, STUDY, study).config
    answers: dict[str, str] = {}
    sections: list[CardSection] = []
    for name, task in config.tasks().items():
        table = Layout(folder).table(config.encoder, name).folder
        bundle = Layout(folder).study(STUDY).heads(name, 0).folder
        lines, heads = loss_slices(own, table, bundle, task)
        answers[name] = slices_answer(name, heads)
        sections += [
            CardSection(
                name,
                f"slices_{name}",
                f"Mean loss of {FRAMES:,} frames of each split around "
                f"heads at alpha = {own.training.headline_alpha:g}, mean over "
                f"{DIRECTIONS} directions and the seeds.",
                lines,
                _chart(lines),
            ),
            CardSection(
                "",
                f"sharpness_{name}",
                "Rise of the mean loss of training frames: at half "
                "the weights' size in a random direction, and by a step of L2 norm "
                f"{RADIUS} along the gradient. Macro F1 of the validation frames with a crop.",
                heads,
            ),
        ]
    card = Card(
        QUESTION,
        f"The heads of the study {STUDY}, looked at along lines through their weights.",
        answers,
        sections,
        "Directions are scaled filter by filter (Li et al. 2018). A flat slice proves nothing "
        "about new people; compare it with the score. "
        f"{first_fold_only(folder / 'tables' / config.encoder, config.tasks())}",
    )
    write_card_page(card, config.run, out)
