"""``python -m clipaffect.ops.first_run CONFIG CORES`` prints the seconds of a first run here.

The start of its jobs is not counted. The end of the process frees the GPU for them.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from clipaffect.config import load_config
from clipaffect.config.models import Config
from clipaffect.core.errors import UserError
from clipaffect.dataset.readers.registry import read_dataset
from clipaffect.dataset.summary import collect, first_searched
from clipaffect.ops.estimate import estimate

PATIENCE = 60  # seconds; millions of images on a slow disk would take longer


def first_run_seconds(config: Config, cores: int) -> float | None:
    """What the stages of a run without earlier work take on this machine, by ``ops.estimate``.

    None if one of them cannot be measured, such as user code.

    Raises:
        UserError: the data is missing or wrong.
    """
    tasks = list(config.tasks().values())
    tree, labels = read_dataset(config.data, tasks)
    facts = collect(config.data, tasks, tree, labels, bool(config.encoders))
    costs = list(estimate(config, facts, first_searched(tree), Path(config.paths.assets)))
    if any(cost.hours is None for cost in costs):
        return None
    parallel = sum(cost.hours or 0 for cost in costs if cost.on == "core")
    others = sum(cost.hours or 0 for cost in costs if cost.on != "core")
    return 3600 * (parallel / cores + others)


if __name__ == "__main__":
    signal.alarm(PATIENCE)  # also if the command that waits for it is killed
    try:
        found = first_run_seconds(load_config(Path(sys.argv[1])), int(sys.argv[2]))
    except UserError as error:
        sys.exit(str(error))
    if found is None:
        sys.exit("a stage cannot be measured")
    print(found)
