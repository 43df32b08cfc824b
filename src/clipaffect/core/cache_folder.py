"""A place for what libraries cache, also where the home folder is missing or not writable."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def use_writable_cache() -> None:
    """Let libraries cache in a temporary folder if the user's cache cannot be written.

    Snakemake crashes without a writable cache, and accounts of clusters and containers often have
    no home. The folder is removed when this process ends.
    """
    stated = os.environ.get("XDG_CACHE_HOME")
    try:
        cache = Path(stated) if stated else Path.home() / ".cache"
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except (OSError, RuntimeError):  # RuntimeError: the account has no home folder
        folder = tempfile.mkdtemp(prefix="clipaffect-cache-")
        os.environ["XDG_CACHE_HOME"] = folder
        os.environ.setdefault("MPLCONFIGDIR", folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
