"""Copy files that a job reads in random order to the node's local disk.

A training job draws its batches from all over a table. From a shared file system each draw is a
round trip; a copy costs one reading from end to end.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipaffect.core.errors import UserError

logger = logging.getLogger(__name__)

VARIABLE = "CLIPAFFECT_SCRATCH"  # the workflow sets it to ``paths.scratch``


@contextmanager
def scratch_copy(folder: Path, names: list[str]) -> Iterator[Path]:
    """Copy the given files of ``folder`` to the node's disk; the copies are removed afterwards.

    It is ``folder`` itself where no scratch is configured, where ``paths.scratch`` names a
    variable that this machine does not set, or where the disk has no room for the files.

    Raises:
        UserError: there is no such folder.
    """
    setting = os.environ.get(VARIABLE, "")
    place = Path(os.path.expandvars(setting))
    named = re.findall(r"\$\{?(\w+)", setting)
    if not setting or not all(os.environ.get(name) for name in named):
        yield folder
        return
    if not (place.is_absolute() and place.is_dir()):
        raise UserError(
            "the folder does not exist on this machine, or its path is not absolute",
            where=f"paths.scratch: {setting} ({place})",
            fix="set it to the folder that the cluster creates for each job, such as "
            "$SLURM_TMPDIR or $TMPDIR, or remove paths.scratch",
        )
    size = sum((folder / name).stat().st_size for name in names)
    if shutil.disk_usage(place).free < size:
        logger.warning("%s has no room for %.1f GB: reading %s", place, size / 1e9, folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="clipaffect-", dir=place) as copied:
        for name in names:
            shutil.copyfile(folder / name, Path(copied) / name)
        logger.info("%.1f GB copied to %s", size / 1e9, copied)
        yield Path(copied)
