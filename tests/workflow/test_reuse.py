"""What is finished is never made again: after a kill, a changed label, another variant."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import (
    MICRO,
    ROOT,
    clipaffect,
    environment,
    result_files,
    snakemake,
    workplace,
)
from preloaded import kill_all, python

from clipaffect.core.tasks import EXPR
from clipaffect.dataset.readers.aff_wild2 import FOLDERS

RESULTS = Path("results/micro")


@pytest.mark.parametrize(
    "target",
    [
        "results/micro/models/EXPR/0/heads.parquet",
        pytest.param("all", marks=pytest.mark.slow),  # 31 jobs, each with its own imports
    ],
)
def test_the_documented_call_gives_the_same_bytes(
    micro_run: Path, tmp_path: Path, target: str
) -> None:
    """Snakemake and each job in a Python of its own, as a user's are."""
    folder = workplace(tmp_path / "run")
    snakemake(folder, target, *MICRO, program=sys.executable)
    made, expected = result_files(folder / RESULTS), result_files(micro_run / RESULTS)
    assert any(name.startswith("models/EXPR/0") for name in made)
    assert made.keys() == expected.keys() if target == "all" else made.keys() < expected.keys()
    assert all(expected[name] == content for name, content in made.items())


def entries(folder: Path) -> dict[str, int]:
    """Finished pieces of the work store and when their content was written."""
    return {
        str(key.parent.relative_to(folder)): max(
            f.stat().st_mtime_ns for f in key.parent.iterdir() if f.name != "key.json"
        )
        for key in (folder / "store").glob("*/*/*/key.json")
        if key.parent.suffix != ".part"
    }


def test_one_corrected_label_costs_its_task_alone(micro_copy: Path) -> None:
    annotations = micro_copy / "annotations"
    shutil.copytree(ROOT / "tests/data/clips/annotations", annotations)
    videos = "tests/data/clips/videos"
    move = ("--config", f'data={{"annotations": "annotations", "videos": "{videos}"}}')
    snakemake(micro_copy, "training_all", *MICRO, *move)
    before = entries(micro_copy)
    train = annotations / FOLDERS[EXPR.name][0] / "Train_Set"
    path = min(train.iterdir(), key=lambda p: int(p.name.split("-")[0]))
    lines = path.read_text().splitlines()
    lines[5] = "6" if lines[5] != "6" else "5"
    path.write_text("\n".join(lines) + "\n")
    snakemake(micro_copy, "training_all", *MICRO, *move)
    after = entries(micro_copy)
    assert before.items() <= after.items(), "nothing that was finished was made again"
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"heads"}
    assert len(after.keys() - before.keys()) == 4  # EXPR's grid; AU's heads are untouched


def test_variants_a_users_head_and_another_encoder_are_in_every_table(
    micro_copy: Path,
) -> None:
    (micro_copy / "mine.py").write_text(
        "from torch import nn\n\n\nclass Thin(nn.Sequential):\n"
        "    def __init__(self, inputs, outputs):\n"
        "        super().__init__(nn.Linear(inputs, 9), nn.BatchNorm1d(9), nn.Linear(9, outputs))\n"
    )
    variants = {"focal": {"loss": "focal"}, "thin": {"head": "mine.py:Thin"}}
    settings = {"variants": variants, "select_on": "inner", "seeds": [0]}
    second = 'encoders={"second": {"model": "clipaffect-micro", "random": 7, "activation": "gelu"}}'
    before = entries(micro_copy)
    snakemake(micro_copy, *MICRO, "--config", f"training={json.dumps(settings)}", second)
    report = micro_copy / RESULTS / "report"
    runs = pd.read_csv(report / "tables/runs.csv")
    heads = runs[(runs["method"] == "head") & (runs["task"] == "EXPR")]
    # the grid's two alphas, focal without one, the user's head at both
    assert heads["variant"].fillna("").value_counts().to_dict() == {"": 2, "thin": 2, "focal": 1}
    assert heads["macro_f1"].between(0, 1).all()
    numbers = json.loads((report / "metrics.json").read_text())["tasks"]["EXPR"]
    assert [row["variant"] for row in numbers["variants"]] == ["focal", "thin", "thin"]
    assert numbers["chosen_alpha"] in (0.5, 1.0)
    assert numbers["best_validation_epoch"] >= numbers["headline"]["mean"]
    page = (report / "index.html").read_text()
    assert "loss: focal" in page
    assert "head: mine.py:Thin" in page
    assert "linear probe on second" in numbers["references"]
    made = entries(micro_copy).keys() - before.keys()
    assert {name.split("/")[1] for name in made} == {"heads", "encoders", "embeddings"}
    # an edited file trains that variant again, and nothing else
    before = entries(micro_copy)
    text = (micro_copy / "mine.py").read_text()
    (micro_copy / "mine.py").write_text(text.replace("9", "7"))
    snakemake(
        micro_copy, "training_all", *MICRO, "--config", f"training={json.dumps(settings)}", second
    )
    assert len(entries(micro_copy).keys() - before.keys()) == 4  # two tasks, two alphas


# When the first of each is finished.
MOMENTS = (
    "store/detections/*/*/key.json",
    "store/embeddings/*/*/key.json",
    "store/heads/*/*/key.json",
)


def test_kill_9_changes_nothing(micro_run: Path, tmp_path: Path) -> None:
    folder = workplace(tmp_path / "killed")
    arguments = ("run", "--cores", "2", *MICRO)
    command = [python(), "-m", "clipaffect", *arguments]
    finished: dict[str, int] = {}
    for moment in MOMENTS:
        with (tmp_path / "log").open("wb") as log:
            run = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment())
            while run.poll() is None and not list(folder.glob(moment)):
                time.sleep(0.01)
            kill_all()
            run.wait()
        assert run.returncode == 137, (tmp_path / "log").read_text()[-3000:]
        assert finished.items() <= entries(folder).items(), "finished work was redone"
        finished = entries(folder)
    last = clipaffect("run", "all", "--cores", "2", *MICRO, folder=folder)
    assert last.returncode == 0, last.stderr[-3000:]
    assert finished.items() <= entries(folder).items(), "finished work was redone"
    told = last.stderr.splitlines()
    assert len(told) < 30, last.stderr
    assert any(line.startswith("done  train heads  (") for line in told), last.stderr
    assert "EXPR:  macro F1 0." in last.stdout
    assert result_files(folder / RESULTS) == result_files(micro_run / RESULTS)


@pytest.mark.slow  # real processes and any moment: two minutes
def test_kill_9_at_random_moments_changes_nothing(micro_run: Path, tmp_path: Path) -> None:
    folder = workplace(tmp_path / "killed")
    seed = random.SystemRandom().randrange(10**6)
    moments = random.Random(seed)
    command = [sys.executable, "-m", "clipaffect", "run", "--cores", "2", *MICRO]
    child_environment = environment() | {"PYTHONPATH": str(ROOT / "src")}
    for _ in range(3):
        with (tmp_path / "log").open("ab") as log:
            run = subprocess.Popen(
                command,
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=child_environment,
            )
            while run.poll() is None and not entries(folder):
                time.sleep(0.1)
            time.sleep(moments.uniform(0, 14))
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    finished = entries(folder)
    last = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=child_environment, check=False
    )
    assert last.returncode == 0, f"seed {seed}:\n{last.stderr[-3000:]}"
    assert finished.items() <= entries(folder).items(), f"finished work was redone (seed {seed})"
    assert result_files(folder / RESULTS) == result_files(micro_run / RESULTS), f"seed {seed}"


def test_another_run_in_the_folder_is_refused(micro_copy: Path) -> None:
    (micro_copy / ".snakemake/locks").mkdir(exist_ok=True)
    (micro_copy / ".snakemake/locks/0.input.lock").write_text("somebody\n")
    done = clipaffect("run", "--cores", "1", *MICRO, folder=micro_copy)
    assert done.returncode == 2
    assert "another run is using this folder" in done.stderr
    assert "--unlock" in done.stderr
    assert "Traceback" not in done.stderr


def processes_in(folder: Path, *words: str) -> list[psutil.Process]:
    """Processes that work in a folder and have these words in their command."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if process.cwd() == str(folder) and set(words) <= set(command):
                found.append(process)
    return found


def at_work(folder: Path, log: Path) -> tuple[subprocess.Popen, psutil.Process]:
    """A run in processes of its own that has reached align_faces, and its Snakemake."""
    command = [sys.executable, "-m", "clipaffect", "run", "--cores", "2", *MICRO]
    with log.open("ab") as file:
        run = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, env=environment())
    while not processes_in(folder, "align-faces", "-m"):
        assert run.poll() is None, log.read_text()[-3000:]
        time.sleep(0.05)
    (scheduler,) = [p for p in psutil.Process(run.pid).children() if "snakemake" in p.cmdline()]
    return run, scheduler


def test_killing_single_processes_leaves_no_lock_and_no_job(
    face_networks: Path, tmp_path: Path
) -> None:
    folder, log = workplace(tmp_path / "killed"), tmp_path / "log"
    run, scheduler = at_work(folder, log)
    scheduler.kill()
    assert run.wait() == 137
    assert "Snakemake was ended by signal 9" in log.read_text()
    assert not processes_in(folder)
    assert not list((folder / ".snakemake").glob("locks/*"))
    # The launcher too: what it would have done, the next call does.
    run, scheduler = at_work(folder, log)
    run.kill()
    scheduler.kill()
    run.wait()
    assert processes_in(folder, "align-faces")
    done = clipaffect("run", "--cores", "2", "faces_all", *MICRO, folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "processes of the killed run were ended" in done.stderr
    assert not processes_in(folder)
