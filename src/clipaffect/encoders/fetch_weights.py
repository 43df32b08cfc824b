"""Fetch the weights of open_clip's pretrained tags once, in a local job, and record them.

Compute nodes are often offline, and a hub can change what a tag refers to. So the sha256 of the
file is recorded when it is fetched, checked whenever it is loaded, and part of the key of the
features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from clipaffect.config.encoders import Encoder, weights_folder
from clipaffect.core.assets import MANIFEST
from clipaffect.core.errors import UserError, first_line
from clipaffect.core.files import write_text
from clipaffect.core.hashing import file_digest
from clipaffect.encoders.open_clip_checks import check_tag
from clipaffect.encoders.untrained import open_clip


@dataclass(frozen=True)
class Fetched:
    """The weights of a tag: their path, and their sha256 when they were fetched."""

    path: Path
    sha256: str


def fetch_weights(model: str, tag: str, assets: Path) -> Path:
    """Fetch the weights of a tag from the hub; returns the path of their manifest.

    Raises:
        UserError: unknown tag, or no hub.
    """
    check_tag(model, tag, "encoders.<name>")
    folder = assets / weights_folder(model, tag)
    known = open_clip().get_pretrained_cfg(model, tag)
    try:
        path = Path(open_clip().download_pretrained(known, cache_dir=str(folder)))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the weights '{tag}' of {model} could not be fetched: {first_line(error)[:300]}",
            where="the model hub",
            fix="check the network, or download the file elsewhere and set 'file' and 'sha256' "
            "instead of 'tag'",
        ) from None
    listing = {
        "model": model,
        "tag": tag,
        "from": known.get("hf_hub") or known.get("url"),
        # Not resolved: the file is a link into the hub's cache, which lies below as well.
        "file": path.absolute().relative_to(folder.absolute()).as_posix(),
        "sha256": file_digest(path),
    }
    write_text(folder / MANIFEST, json.dumps(listing, indent=2) + "\n")
    return folder / MANIFEST


def fetched_weights(settings: Encoder, assets: Path) -> Fetched:
    """The fetched weights of an encoder with a tag, not yet checked against their sha256.

    Raises:
        UserError: they were not fetched, or are not those that the configuration names.
    """
    folder = assets / weights_folder(settings.model, str(settings.tag))
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"the weights '{settings.tag}' of {settings.model} have not been fetched",
            where=folder,
            fix="run the rule fetch_weights on a machine with internet; the workflow does so "
            "before other jobs need the weights",
        )
    listing = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    path = folder / listing["file"]
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"the manifest names a file outside its folder: {listing['file']}",
            where=folder / MANIFEST,
            fix="delete the folder and fetch the weights again",
        )
    fetched = Fetched(path, listing["sha256"])
    if settings.sha256 is not None and fetched.sha256 != settings.sha256:
        raise UserError(
            f"the weights have sha256 {fetched.sha256}, expected {settings.sha256}",
            where=path,
            fix="correct encoders.<name>.sha256 if these are intended; otherwise do not use them",
        )
    return fetched


def checked_weights(settings: Encoder, assets: Path) -> Path:
    """The fetched weights of an encoder with a tag, to be loaded.

    Raises:
        UserError: as ``fetched_weights``, or the file was changed since.
    """
    fetched = fetched_weights(settings, assets)
    if not fetched.path.is_file() or file_digest(fetched.path) != fetched.sha256:
        raise UserError(
            "the weights were changed or removed after they were fetched",
            where=fetched.path,
            fix="delete the folder and fetch the weights again",
        )
    return fetched.path
