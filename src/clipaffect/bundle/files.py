"""The files of a bundle: their hashes, and the weights that encoders are stored with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from clipaffect.config.encoders import Encoder
from clipaffect.config.section import FOLDER_NAME
from clipaffect.core.assets import known_assets
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import file_digest
from clipaffect.encoders.fetch_weights import fetched_weights


def exported_encoder(
    settings: Encoder, name: str, assets: Path, folder: Path, include_weights: bool
) -> Encoder:
    """An encoder as stored in the bundle: its weights by sha256, never by a local path."""
    if settings.tag is not None:
        return settings.model_copy(update={"sha256": fetched_weights(settings, assets).sha256})
    if settings.file is None:
        return settings
    path = Path(settings.file)
    if not include_weights:
        kept = path.name if FOLDER_NAME.fullmatch(path.name) else f"{name}{path.suffix}"
        return settings.model_copy(update={"file": kept})
    if path.suffix != ".safetensors":
        raise UserError(
            "a bundle can only contain safetensors weights: other formats may contain code",
            where=path,
            fix="convert the file, or omit --include-weights: the bundle then identifies "
            "the file by its sha256",
        )
    target = f"encoders/{name}.safetensors"
    (folder / "encoders").mkdir(exist_ok=True)
    shutil.copyfile(path, folder / target)
    return settings.model_copy(update={"file": target})


def bundle_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def cautions(encoders: dict[str, Encoder]) -> list[str]:
    """Sentences that a user of an encoder's scores has to know, from the list of assets."""
    known = known_assets()
    named = sorted({own.asset for own in encoders.values() if own.asset is not None})
    return [f"{name}: {known[name].caution}" for name in named if known[name].caution]
