"""Files of heads by encoder and seed: tensors named ``<features>/seed=<seed>/<tensor>``.

Final heads, the heads of other encoders that are averaged with, and exported models have this form.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from clipaffect.core.tensors import read_tensors, tensor_names, write_tensors

Weights = dict[str, Tensor]


def write_seed_heads(path: Path, heads: dict[str, dict[int, Weights]]) -> None:
    """Write the weights of heads by features and seed; perhaps of none."""
    tensors = {
        f"{features}/seed={seed}/{name}": value.contiguous()
        for features, by_seed in heads.items()
        for seed, state in by_seed.items()
        for name, value in state.items()
    }
    write_tensors(path, tensors)


def read_seed_heads(path: Path, features: str) -> dict[int, Weights]:
    """The weights of the heads on one encoder's features, by seed in order."""
    keys = [name.split("/")[:2] for name in tensor_names(path)]
    seeds = sorted({int(seed.removeprefix("seed=")) for own, seed in keys if own == features})
    return {seed: read_tensors(path, f"{features}/seed={seed}/") for seed in seeds}
