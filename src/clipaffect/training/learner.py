"""What trains one head, step by step; and the reference that does so by autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clipaffect.config.training import LOSSES, Recipe
from clipaffect.errors import UserError
from clipaffect.tasks import Task
from clipaffect.training.head import DropoutMasks, Head, folded_logits
from clipaffect.training.objectives import UserObjective, WeighedObjective, build_risk
from clipaffect.training.step import Evaluated, StepRecord, training_step
from clipaffect.training.user_code import load_class

BETAS, EPSILON = (0.9, 0.999), 1e-8  # AdamW's, in the published code and in torch


class Learner(Protocol):
    """A head in training."""

    def step(
        self, features: Tensor, labels: Tensor, number: int, learning_rate: float, probe: bool
    ) -> StepRecord:
        """Take step ``number`` (from 0) on a batch (B, d), (B, 1 or 12)."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, targets) in evaluation mode."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a ``state``."""
        ...

    def head_state(self) -> dict[str, Tensor]:
        """The head's weights and statistics by name."""
        ...


def build_head(recipe: Recipe, inputs: int, outputs: int, seed: int) -> nn.Module:
    """The head of a recipe: the MLP, or the user's module made as ``ClassName(inputs, outputs)``.

    Raises:
        UserError: the user's class is not a module that maps (B, inputs) to (B, outputs).
    """
    if recipe.head == "mlp":
        return Head(inputs, outputs, recipe.hidden_layers, recipe.width, seed)
    made = load_class(recipe.head, "training.head")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            head = made(inputs, outputs)
            shape = tuple(head.eval()(torch.zeros(2, inputs)).shape)
        except Exception as error:  # whatever the user's code raises is theirs to mend
            raise UserError(
                f"{type(error).__name__}: {error}",
                where=recipe.head,
                mend="make it a torch.nn.Module: ClassName(inputs, outputs), forward(features)",
            ) from None
    if not isinstance(head, nn.Module) or shape != (2, outputs):
        raise UserError(
            f"2 frames give an output of shape {shape}, not (2, {outputs})",
            where=recipe.head,
            mend="return one logit for each class or unit",
        )
    return head


def build_objective(
    recipe: Recipe, alpha: float, labels: Tensor, task: Task
) -> WeighedObjective | UserObjective:
    """The objective of a recipe, for autograd."""
    if recipe.loss in LOSSES:
        return WeighedObjective(build_risk(recipe, alpha, labels, task), task, recipe)
    return UserObjective(load_class(recipe.loss, "training.loss")())


def check_user_code(recipe: Recipe) -> None:
    """Load the classes of the user's that a recipe names, before hours of other work.

    Raises:
        UserError: see ``load_class`` and ``build_head``.
    """
    if recipe.head != "mlp":
        build_head(recipe, 16, 8, 0)
    if recipe.loss not in LOSSES:
        load_class(recipe.loss, "training.loss")()


def evaluator(head: nn.Module) -> Callable[[Tensor], Tensor]:
    """Logits (B, targets) of a finished head; the MLP's BatchNorm is folded into its products."""
    if isinstance(head, Head):
        layers = head.folded()
        return lambda features: folded_logits(layers, features)

    @torch.inference_mode()
    def logits(features: Tensor) -> Tensor:
        return head.eval()(features)

    return logits


class ReferenceLearner:
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
        self.optimiser = torch.optim.AdamW(
            head.parameters(), lr=recipe.learning_rate, betas=BETAS, eps=EPSILON,
            weight_decay=recipe.weight_decay,
        )  # fmt: skip

    def step(
        self, features: Tensor, labels: Tensor, number: int, learning_rate: float, probe: bool
    ) -> StepRecord:
        """Take one step; see ``Learner``."""
        self.head.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate

        def evaluate(sam_pass: int) -> Evaluated:
            return self.objective(self._training_logits(features, number, sam_pass), labels)

        return training_step(
            self.head, self.optimiser, evaluate, self.recipe.rho, self.recipe.perturbation, probe
        ).record

    def _training_logits(self, features: Tensor, number: int, sam_pass: int) -> Tensor:
        if self.masks is not None:
            drop = self.masks(number, sam_pass, len(features), like=features)
            return self.head(features, drop)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, number, sam_pass)))
            return self.head(features)

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
        """Go on from a ``state``."""
        own = {k.removeprefix("head/"): v for k, v in state.items() if k.startswith("head/")}
        self.head.load_state_dict(own)
        saved = self.optimiser.state_dict()
        saved["state"] = {}
        for key, value in state.items():
            if key.startswith("adamw/"):
                _, index, name = key.split("/")
                saved["state"].setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(saved)

    def head_state(self) -> dict[str, Tensor]:
        """The head's own state."""
        return {k: v.detach().clone().contiguous() for k, v in self.head.state_dict().items()}
