"""Train any head on any objective with autograd: the reference, also used for user code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipaffect.config.training import LOSSES, Recipe
from clipaffect.core.errors import UserError
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.core.tensors import under
from clipaffect.training.build_head import build_head
from clipaffect.training.losses.base import Risk, single_losses
from clipaffect.training.losses.registry import build_risk
from clipaffect.training.mlp_head import DropoutMasks, Head, evaluator
from clipaffect.training.sam import (
    BETAS,
    EPSILON,
    Evaluated,
    StepRecord,
    StepTrace,
    training_step,
)
from clipaffect.training.user_code import load_class


def build_objective(
    recipe: Recipe, alpha: float, labels: Tensor, task: Task
) -> WeighedObjective | UserObjective:
    """The objective of a recipe, for autograd."""
    if recipe.loss in LOSSES:
        return WeighedObjective(build_risk(recipe, alpha, labels, task), task, recipe)
    return UserObjective(load_class(recipe.loss, "training.loss")())


def check_user_code(recipe: Recipe, task: Task, inputs: int) -> None:
    """Try a training step with user code on four frames, before any head is trained.

    Raises:
        UserError: a file or class is missing, a class fails, a head has no weights or gives
            another shape than (B, targets), a loss is not a scalar that depends on the logits.
    """
    if not recipe.has_user_code:
        return
    code = " and ".join(v for v in (recipe.head, recipe.loss) if v not in ("mlp", *LOSSES))
    features, outputs = torch.linspace(-1, 1, 4 * inputs).view(4, inputs), len(task.targets)
    labels = torch.zeros(4, outputs if task.multilabel else 1, dtype=torch.int8)
    labels[1] = 1
    try:
        head = build_head(recipe, inputs, outputs, 0)
        shape = tuple(head.eval()(features).shape)
        if shape != (4, outputs):
            raise ValueError(f"for 4 frames, the output has shape {shape}, expected (4, {outputs})")
        learner = AutogradLearner(head, build_objective(recipe, 0.5, labels, task), recipe, 0)
        learner.step(features, labels, 0, 1e-3, False)
    except UserError:
        raise
    except Exception as error:  # any exception of user code is for the user to fix
        raise UserError(
            f"{task.name}: {type(error).__name__}: {error}",
            where=code,
            fix="make a head a torch.nn.Module ClassName(inputs, outputs) with weights that maps "
            "(B, inputs) to (B, outputs), and a loss a ClassName()(logits, labels) that returns a "
            "scalar which depends on the logits (docs/training.md)",
        ) from None


class AutogradLearner:
    """Trains any module on any objective through autograd.

    Args:
        head: the module.
        objective: from logits and labels.
        recipe: SAM and AdamW settings; dropout where the head is the MLP.
        seed: of the dropout masks; a module of the user's finds torch's generator seeded by seed,
            step and pass.
    """

    def __init__(
        self,
        head: nn.Module,
        objective: WeighedObjective | UserObjective,
        recipe: Recipe,
        seed: int,
    ) -> None:
        self.head, self.objective, self.recipe, self.seed = head, objective, recipe, seed
        self.masks = None
        if isinstance(head, Head):
            self.masks = DropoutMasks(seed, recipe.dropout, recipe.hidden_layers, recipe.width)
        # Fused: a step of a small head takes a tenth less (median of ten interleaved pairs).
        self.optimiser = torch.optim.AdamW(
            head.parameters(),
            lr=recipe.learning_rate,
            betas=BETAS,
            eps=EPSILON,
            weight_decay=recipe.weight_decay,
            fused=True,
        )

    def step(
        self, features: Tensor, labels: Tensor, number: int, learning_rate: float, probe: bool
    ) -> StepRecord:
        """Take one step; see ``Learner``."""
        return self.trace(features, labels, number, learning_rate, probe).record

    def trace(
        self, features: Tensor, labels: Tensor, number: int, learning_rate: float, probe: bool
    ) -> StepTrace:
        """Take one step and return everything that it computed."""
        self.head.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        return training_step(
            self.head,
            self.optimiser,
            lambda sam_pass: self.evaluate(features, labels, number, sam_pass),
            self.recipe.rho,
            self.recipe.perturbation,
            probe,
        )

    def evaluate(self, features: Tensor, labels: Tensor, number: int, sam_pass: int) -> Evaluated:
        """The objective on a batch at the current weights, with the dropout masks of one pass."""
        # Code of the user's may draw: from a generator of this step's own.
        state = np.random.SeedSequence((self.seed, number, sam_pass)).generate_state(1)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also note a seed and a stack trace for GPUs: a fifth of the
            # time that a step of a small head takes.
            torch.default_generator.manual_seed(int(state[0]))
            if self.masks is None:
                return self.objective(self.head(features), labels)
            drop = self.masks(number, sam_pass, len(features), like=features)
            return self.objective(self.head(features, drop), labels)

    def logits(self, features: Tensor) -> Tensor:
        """Logits in evaluation mode."""
        return evaluator(self.head)(features)

    def state(self) -> dict[str, Tensor]:
        """Weights, statistics and AdamW's moments."""
        found = {f"head/{name}": value for name, value in self.head.state_dict().items()}
        moments: dict[int, dict[str, Any]] = self.optimiser.state_dict()["state"]
        for index, values in moments.items():
            found |= {f"adamw/{index}/{name}": value for name, value in values.items()}
        return {name: value.clone().contiguous() for name, value in found.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Resume from a ``state``."""
        self.head.load_state_dict(under(state, "head/"))
        saved = self.optimiser.state_dict()
        saved["state"] = {}
        for key, value in under(state, "adamw/").items():
            index, name = key.split("/")
            saved["state"].setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(saved)

    def head_state(self) -> dict[str, Tensor]:
        """The head's own state."""
        return {k: v.detach().clone().contiguous() for k, v in self.head.state_dict().items()}


class WeighedObjective:
    """A risk over the single losses, as autograd sees it.

    Args:
        risk: weighs the losses.
        task, recipe: what a single loss is.
    """

    def __init__(self, risk: Risk, task: Task, recipe: Recipe) -> None:
        self.risk, self.task, self.over = risk, task, recipe.loss_over

    def __call__(self, logits: Tensor, labels: Tensor) -> Evaluated:
        """Evaluate logits (B, targets) against labels (B, 1 or 12)."""
        complete = bool((labels != NOT_ANNOTATED).all())
        losses = single_losses(logits, labels, self.task, self.over, complete)
        weighed = self.risk(losses)
        known = losses.values if losses.known is None else losses.values[losses.known]
        mean = float(known.detach().mean()) if known.numel() else float("nan")
        return Evaluated(
            (weighed.weights * losses.values).sum(),
            float(weighed.value),
            mean,
            float(weighed.threshold),
            losses.values.detach(),
            weighed.weights,
        )


class UserObjective:
    """A user-defined loss: ``loss(logits, labels)`` is a differentiable scalar.

    It must be stateless, because checkpoints do not include it.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.loss = loss

    def __call__(self, logits: Tensor, labels: Tensor) -> Evaluated:
        """Evaluate logits (B, targets) against labels (B, 1 or 12)."""
        value = self.loss(logits, labels)
        number, nothing = float(value.detach()), torch.empty(0)
        return Evaluated(value, number, number, float("nan"), nothing, nothing)
