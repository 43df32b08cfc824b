"""User code: heads and losses from a file, given as ``my_head.py:ClassName``."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from clipaffect.config.training import USER_FILE, Recipe
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import file_digest


def load_class(reference: str, key: str) -> Any:
    """Load the class given as ``path.py:Name``.

    Args:
        reference: the setting's value; the path is relative to where Snakemake is called.
        key: the setting, for messages.

    Raises:
        UserError: no such file or class, or the file fails when it is run.
    """
    path, name = _split(reference, key)
    try:
        found = runpy.run_path(str(path))
    except Exception as error:  # any exception of user code is for the user to fix
        raise UserError(
            f"the file raises an error when it is imported: {type(error).__name__}: {error}",
            where=path,
            fix="test it with `python FILE`; it must only define classes",
        ) from None
    if name not in found:
        raise UserError(
            f"the file does not define '{name}'", where=path, fix=f"define it, or correct {key}"
        )
    return found[name]


def user_code_digests(recipe: Recipe) -> dict[str, str]:
    """sha256 of the files a recipe runs, by setting; part of the key in the store."""
    values = {"head": recipe.head, "loss": recipe.loss}
    return {
        key: file_digest(_split(value, f"training.{key}")[0])
        for key, value in values.items()
        if USER_FILE.fullmatch(value)
    }


def _split(reference: str, key: str) -> tuple[Path, str]:
    path, _, name = reference.rpartition(":")
    if not Path(path).is_file():
        raise UserError("the file does not exist", where=path, fix=f"correct {key}: {reference}")
    return Path(path), name
