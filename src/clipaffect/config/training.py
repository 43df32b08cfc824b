"""Settings of the heads: how each is trained (a recipe), and which are trained (the grid)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from clipaffect.config.section import FOLDER_NAME, Section, explain, unique

LOSSES = ("cvar", "class_balanced", "focal", "chi_square")
USER_FILE = re.compile(r".+\.py:[A-Za-z_]\w*")


def _loss(value: str) -> str:
    if value not in LOSSES and not USER_FILE.fullmatch(value):
        raise ValueError(f"must be one of {', '.join(LOSSES)}, or a class: my_loss.py:ClassName")
    return value


def _head(value: str) -> str:
    if value != "mlp" and not USER_FILE.fullmatch(value):
        raise ValueError("must be mlp, or a class: my_head.py:ClassName")
    return value


class Cvar(Section):
    """Conditional Value at Risk, the loss `cvar`."""

    gradient: Literal["exact", "published"] = Field(
        "exact",
        description="`published`: hold lambda constant in the gradient and find it by scipy's "
        "bounded search, as the paper's code does. The two differ if alpha times the number of "
        "losses in the batch is not an integer.",
    )


class ClassBalanced(Section):
    """The loss `class_balanced` (Cui et al. 2019)."""

    beta: float = Field(
        0.999, ge=0, lt=1, description="Beta in the effective number of frames of a class."
    )


class Focal(Section):
    """The loss `focal` (Lin et al. 2017)."""

    gamma: float = Field(2.0, ge=0, le=10, description="Focusing exponent; 0: plain mean.")


class ChiSquare(Section):
    """The loss `chi_square`: distributionally robust over a chi-square ball."""

    radius: float = Field(
        1.0, gt=0, le=1e6, description="Maximum chi-square divergence from uniform batch weights."
    )


class Recipe(Section):
    """How one head is trained, given its CVaR level alpha and its seed."""

    loss: Annotated[str, AfterValidator(_loss)] = Field(
        "cvar",
        description="`cvar`, `class_balanced`, `focal`, `chi_square`, or your own class: "
        "my_loss.py:ClassName. Losses other than `cvar` are only allowed in `variants`.",
    )
    loss_over: Literal["elements", "samples"] = Field(
        "elements",
        description="For AU, what the loss ranks. `elements`: all frame-unit pairs, as in the "
        "paper's code. `samples`: each frame's mean over its annotated units.",
    )
    drop_incomplete_rows: bool = Field(
        False,
        description="For AU: drop training frames in which any unit is not annotated, as the "
        "paper's frame lists do; otherwise only the missing units are left out.",
    )
    cvar: Cvar = Field(default_factory=Cvar, description="The loss `cvar`.")
    class_balanced: ClassBalanced = Field(
        default_factory=ClassBalanced, description="The loss `class_balanced`."
    )
    focal: Focal = Field(default_factory=Focal, description="The loss `focal`.")
    chi_square: ChiSquare = Field(default_factory=ChiSquare, description="The loss `chi_square`.")
    head: Annotated[str, AfterValidator(_head)] = Field(
        "mlp", description="`mlp`, or your own class: my_head.py:ClassName."
    )
    hidden_layers: int = Field(
        3, ge=0, le=16, description="For `mlp`: number of Linear-BatchNorm-ReLU-Dropout blocks."
    )
    width: int = Field(256, ge=8, le=8192, description="For `mlp`: units per hidden layer.")
    dropout: float = Field(0.3, ge=0, lt=1, description="For `mlp`: dropout probability.")
    rho: float = Field(0.05, ge=0, le=10, description="SAM radius; 0 turns SAM off.")
    perturbation: Literal["l2", "sign"] = Field(
        "l2", description="SAM step: `l2`: rho g / |g| (the paper's code); `sign`: rho sign(g)."
    )
    epochs: int = Field(16, ge=1, le=10000, description="Passes over the training frames.")
    batch: int = Field(64, ge=2, le=65536, description="Frames per batch.")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="Initial learning rate of AdamW.")
    final_learning_rate: float = Field(1e-5, ge=0, le=1, description="Minimum learning rate.")
    cosine_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the epochs in which the cosine schedule decays; afterwards the rate "
        "rises again (the paper's code: 0.25).",
    )
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Decoupled weight decay of AdamW.")
    products: Literal["fp32", "bf16"] = Field(
        "fp32", description="Precision of the inputs of matrix products; weights stay fp32."
    )
    select_on: Literal["last", "inner"] = Field(
        "last",
        description="Which epoch's weights to keep. `last`: the last. `inner`: the best on whole "
        "training videos that are held out for this.",
    )
    inner_share: float = Field(
        0.2, gt=0, lt=1, description="For `inner`: share of the training videos to hold out."
    )

    @model_validator(mode="after")
    def _balances_units(self) -> Self:
        if self.loss == "class_balanced" and self.loss_over == "samples":
            raise ValueError("'loss' class_balanced weights single units: set loss_over: elements")
        return self

    @property
    def has_user_code(self) -> bool:
        """Whether the head or the loss is user code."""
        return self.head != "mlp" or self.loss not in LOSSES


Alpha = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


ALPHAS = TypeAdapter(Annotated[tuple[Alpha, ...], AfterValidator(unique)])


class Training(Recipe):
    """The heads: one for every task, alpha and seed, and for every variant."""

    tasks: Annotated[tuple[str, ...], AfterValidator(unique)] | None = Field(
        None, min_length=1, description="Tasks to train; by default all tasks of the data."
    )
    alphas: Annotated[tuple[Alpha, ...], AfterValidator(unique)] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        min_length=1,
        description="CVaR levels: the share of the largest losses that is averaged; 1 is the plain "
        "mean (ERM).",
    )
    seeds: Annotated[tuple[Seed, ...], AfterValidator(unique)] = Field(
        (0, 1, 2),
        min_length=1,
        description="Seeds; each determines initialisation, batches and dropout.",
    )
    headline_alpha: Alpha = Field(
        0.5,
        description="The alpha of the report's main result, fixed in advance and never chosen by "
        "score. Must be one of `alphas`.",
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Additional heads by name, each with the recipe keys that differ: any key of "
        "`training` from `loss` to `inner_share`. Trained at each seed; with loss `cvar`, at "
        "`headline_alpha` and 1, or at the `alphas` that it lists.",
    )
    parts: int = Field(
        2,
        ge=1,
        le=1024,
        description="Number of jobs that train a task's heads; by default 1 with `device: cuda`, "
        "where one stack of all heads is fastest.",
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="`cuda` trains all heads of a job at once, stacked. It agrees with `cpu` up to "
        "rounding, not byte for byte.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_part_on_a_gpu(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("device") == "cuda":
            return {"parts": 1} | values
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.headline_alpha not in self.alphas:
            raise ValueError(f"'headline_alpha' {self.headline_alpha:g} is not one of 'alphas'")
        for name, changed in self.variants.items():
            try:
                ALPHAS.validate_python(changed.get("alphas", (1.0,)))
            except ValidationError as error:
                raise ValueError(explain(error, Training, f"variants.{name}.alphas")) from None
        if self.loss != "cvar":
            raise ValueError(
                f"'loss' {self.loss} has no alpha: list it under 'variants', where it is compared "
                "with CVaR and ERM"
            )
        for name, recipe in self.recipes().items():
            if self.device == "cuda" and recipe.has_user_code:
                where = f"variants.{name}" if name else "the recipe"
                raise ValueError(f"{where}: user classes need device: cpu")
        if self.parts > len(self.heads()):
            raise ValueError(f"'parts' {self.parts} exceeds the number of heads per task")
        return self

    def heads(self) -> list[tuple[str, float, int]]:
        """(variant, alpha, seed) of every head of a task; the grid's own variant is ``""``.

        A variant has every seed; with loss ``cvar`` at the headline alpha and at 1 (ERM), or at
        ``alphas`` of its own; with another loss alpha is NaN.
        """
        heads = []
        alphas: list[float]
        for variant, recipe in self.recipes().items():
            if not variant:
                alphas = list(self.alphas)
            elif recipe.loss == "cvar":
                own = self.variants[variant].get("alphas", ())
                alphas = sorted(own or {self.headline_alpha, 1.0})
            else:
                alphas = [float("nan")]
            heads += [(variant, alpha, seed) for alpha in alphas for seed in self.seeds]
        return heads

    def user_files(self) -> list[str]:
        """The files of user code that the recipes run."""
        values = {v for r in self.recipes().values() for v in (r.head, r.loss)}
        return sorted({v.rpartition(":")[0] for v in values if USER_FILE.fullmatch(v)})

    def recipes(self) -> dict[str, Recipe]:
        """The recipe of every variant; the grid's own has the name ``""``."""
        base = {name: getattr(self, name) for name in Recipe.model_fields}
        found = {"": Recipe.model_validate(base)}
        for name, changed in self.variants.items():
            if not FOLDER_NAME.fullmatch(name):
                raise ValueError(f"'variants': '{name}' is not a plain name")
            own = {key: value for key, value in changed.items() if key != "alphas"}
            found[name] = _variant(name, base, own)
        return found


def _variant(name: str, base: dict[str, Any], changed: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(base | changed)
    except ValidationError as error:
        raise ValueError(explain(error, Recipe, f"variants.{name}")) from None
