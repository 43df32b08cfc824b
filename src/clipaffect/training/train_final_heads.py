"""Stage ``final``: train the headline heads once more, on all people, after they were scored.

Under k-fold evaluation no head of the grid has seen all people, so none is the one to hand on. The
final heads have: their score is that of the grid's heads, which never saw the people that they were
scored on. The final heads themselves cannot be scored on this data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clipaffect.config.training import Training
from clipaffect.core.errors import UserError
from clipaffect.core.files import read_json
from clipaffect.core.gpu import one_device
from clipaffect.core.layout import FinalHeads
from clipaffect.core.progress import Progress
from clipaffect.core.split_names import EVERYBODY
from clipaffect.core.store import Store
from clipaffect.core.tasks import Task
from clipaffect.core.tensors import read_tensors
from clipaffect.training.cost import Timings
from clipaffect.training.data import Split, read_split
from clipaffect.training.seed_heads import Weights, write_seed_heads
from clipaffect.training.train_heads import headline_heads, train_entries


def train_final_heads(
    tables: dict[str, Path],
    task: Task,
    settings: Training,
    choices: Path | None,
    store: Store,
    out: Path,
) -> None:
    """Write the weights of the final heads into the folder ``out``.

    Args:
        tables: by encoder: the run's own first, then those that scores may be averaged with.
        task: the task.
        settings: the ``training`` section.
        choices: ``choices.json`` of the post-processing; None if there is none.
        store: the store. Each head is cached there, and an unfinished one resumes.
        out: a folder; see ``layout.FinalHeads``.

    Raises:
        UserError: no head on the run's own encoder finished.
    """
    torch.set_num_threads(1)
    steps: list[dict[str, Any]] = read_json(choices)["final"] if choices else []
    own, *_ = tables
    names = [own, *(name for step in steps for name in step["choice"].get("with", []))]
    epochs = len(names) * len(settings.seeds) * settings.recipes()[""].epochs
    weights: dict[str, dict[int, Weights]] = {name: {} for name in names}
    with (
        one_device(settings.device == "cuda", "training.device: cuda") as device,
        Progress("epochs", epochs) as progress,
    ):
        for name in names:
            everybody = read_split(tables[name], task, EVERYBODY)
            nobody = Split(everybody.rows[:0], everybody.features[:0], everybody.labels[:0])
            measured = Timings(task, everybody.features.shape[1], settings.device)
            entries = train_entries(
                headline_heads(settings),
                everybody,
                nobody,
                task,
                settings,
                device,
                store,
                measured,
                progress,
            )
            for head, entry in entries.items():
                if read_json(entry / "record.json")["status"] == "ok":
                    weights[name][head.seed] = read_tensors(entry / "head.safetensors")
    if lacking := [name for name in names if not weights[name]]:
        raise UserError(
            f"no final head of {task.name} on {lacking[0]} finished training",
            where="final_heads",
            fix="check why heads fail (training.learning_rate, training.rho)",
        )
    write_seed_heads(FinalHeads(out).weights, weights)
