"""Digests of the settings and files that a result depends on."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """A unique JSON text for a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Hex sha256 of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_state(path: Path) -> tuple[int, int]:
    """Size and modification time of a file; it counts as unchanged while they stay the same."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def file_digest(path: Path) -> str:
    """Hex sha256 of a file, read once per process as long as size and time stay the same."""
    return _file_digest(path, *file_state(path))


@lru_cache(maxsize=4096)
def _file_digest(path: Path, size: int, modified_ns: int) -> str:
    return digest_now(path)


def digest_now(path: Path) -> str:
    """Hex sha256 of a file as it is: damage on a disk changes neither size nor time."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
