"""Runs under a real DVC: the bytes of Snakemake, whatever is changed, killed, pushed or pulled."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import CLIPS, MICRO, ROOT, result_files, snakemake, workplace
from dvc_repository import (
    CONFIG,
    RESULTS,
    STAGES,
    commit,
    make_repository,
    run,
    set_epochs,
    surroundings,
)
from preloaded import kill_all
from slurm import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # of a slow machine
LONGER = ("-S", f"{CONFIG}:training.epochs=4")


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory, face_networks: Path) -> Path:
    """`dvc repro` from a fresh clone, committed. Not to be changed: copy it."""
    folder = make_repository(tmp_path_factory.mktemp("dvc") / "repository")
    run(folder, "dvc", "repro", "-q", STAGES)
    commit(folder, "dvc repro")
    return folder


@pytest.fixture
def repository(reproduced: Path, tmp_path: Path) -> Path:
    """A copy of the reproduced repository."""
    folder = tmp_path / "repository"
    shutil.copytree(reproduced, folder, symlinks=True)
    return folder


def made(folder: Path) -> dict[str, bytes]:
    return result_files(folder / RESULTS)


@pytest.fixture(scope="module")
def longer(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Snakemake run with one more epoch: heads, scores and report are made from nothing.

    It starts from the faces and embeddings of the micro run's work store.
    """
    folder = workplace(tmp_path_factory.mktemp("longer") / "run")
    for kind in ("frames", "detections", "embeddings"):
        shutil.copytree(micro_run / "store" / kind, folder / "store" / kind)
    config = yaml.safe_load(Path(ROOT, MICRO[1]).read_text())
    config["training"]["epochs"] = 4
    (folder / "longer.yaml").write_text(yaml.safe_dump(config))
    snakemake(folder, "--configfile", "longer.yaml")
    return folder


def test_a_fresh_clone_gives_snakemakes_bytes(reproduced: Path, micro_run: Path) -> None:
    assert made(reproduced) == made(micro_run)
    assert "up to date" in run(reproduced, "dvc", "status", f"{STAGES}:report")


def test_one_setting_costs_what_depends_on_it_and_a_killed_repro_goes_on(
    repository: Path, longer: Path
) -> None:
    set_epochs(repository)
    logs = repository / "logs/micro/train_heads"
    shutil.rmtree(logs)
    with (repository / "said").open("wb") as out:
        repro = subprocess.Popen(
            ["dvc", "repro", STAGES],
            cwd=repository,
            stdout=out,
            stderr=out,
            env=surroundings(),
        )
        while not logs.exists() and repro.poll() is None:
            time.sleep(0.01)
        kill_all()
        assert repro.wait() == 137, (repository / "said").read_text()
    said = (repository / "said").read_text() + run(repository, "dvc", "repro", STAGES)
    assert f"Running stage '{STAGES}:training'" in said
    for stage in ("dataset", "faces", "embeddings", "references"):
        assert f"Running stage '{STAGES}:{stage}'" not in said
    assert made(repository) == made(longer)
    metrics = ("--targets", str(RESULTS / "report/metrics.json"))
    moved = json.loads(run(repository, "dvc", "metrics", "diff", "--json", *metrics))
    changes = moved["results/micro/report/metrics.json"]
    now = json.loads((longer / RESULTS / "report/metrics.json").read_text())
    key = "tasks.EXPR.headline.mean"
    assert changes[key]["new"] == now["tasks"]["EXPR"]["headline"]["mean"]
    run(repository, "clipaffect", "dvc", "plots", CONFIG)
    page = (repository / "plots/index.html").read_text()
    assert "headline" in page
    assert not re.search(r"src=.https?:", page)


@pytest.mark.slow  # two minutes: each job starts Snakemake
def test_stages_submit_their_jobs_to_slurm(
    repository: Path, longer: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """Through the variable that names a profile, here one that also asks for states more often."""
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    profile |= {
        "slurm-status-command": "squeue",
        "seconds-between-status-checks": 1,
        "slurm-init-seconds-before-status-checks": 1,
    }
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile))
    set_epochs(repository)
    before = set(cluster.jobs())
    environment = cluster.environment | {"SNAKEMAKE_PROFILE": str(tmp_path)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["dvc", "repro", STAGES],
        cwd=repository,
        capture_output=True,
        text=True,
        env=surroundings() | environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert made(repository) == made(longer)
    jobs = {name: job for name, job in cluster.jobs().items() if name not in before}
    trained = [comment for _, _, comment in jobs.values() if "train_heads" in comment]
    assert len(trained) == 4
    assert not any("align_faces" in comment for _, _, comment in jobs.values())


@pytest.mark.slow
def test_an_experiment_finds_data_that_git_ignores(repository: Path) -> None:
    (repository / "data").mkdir()
    for name in ("videos", "annotations"):
        (repository / "data" / name).symlink_to(CLIPS / name)
    path = repository / CONFIG
    config = yaml.safe_load(path.read_text())
    config["data"] |= {"videos": "data/videos", "annotations": "data/annotations"}
    path.write_text(yaml.safe_dump(config))
    assert "data" not in run(repository, "git", "status", "--short", "--untracked-files")
    commit(repository, "Own data")
    run(repository, "dvc", "exp", "run", "-q", "--temp", "--name", "own", *LONGER, STAGES)
    assert "own" in run(repository, "dvc", "exp", "list")


@pytest.mark.slow
def test_experiments_leave_the_workspace_alone(repository: Path, longer: Path) -> None:
    before = made(repository)
    run(repository, "dvc", "exp", "run", "-q", "--temp", "--name", "longer", *LONGER, STAGES)
    assert made(repository) == before
    shown = json.loads(run(repository, "dvc", "exp", "show", "--json"))
    metrics = json.loads((longer / RESULTS / "report/metrics.json").read_text())
    (found,) = [
        experiment["revs"][0]["data"] for row in shown for experiment in row["experiments"] or []
    ]
    headline = found["metrics"]["results/micro/report/metrics.json"]["data"]["tasks"]["EXPR"][
        "headline"
    ]
    assert headline == metrics["tasks"]["EXPR"]["headline"]
    run(repository, "dvc", "gc", "--workspace", "--force", "-q")  # the experiment's outputs go
    shutil.rmtree(repository / RESULTS)
    run(repository, "dvc", "checkout", "-q", STAGES)
    assert made(repository) == before


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real S3 server on loopback, rclone's, over a folder: its address and that folder."""
    folder = tmp_path / "served"
    (folder / "bucket").mkdir(parents=True)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    rclone = Path(sys.executable).parent / "rclone"
    command = [
        str(rclone),
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        "key,secret",
        str(folder),
    ]
    with (tmp_path / "rclone.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", folder
        finally:
            server.terminate()
            server.wait()


@pytest.mark.parametrize("kind", [pytest.param("folder", marks=pytest.mark.slow), "s3"])
def test_another_machine_pulls_the_results_and_snakemake_agrees(
    repository: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "s3":
        address, served = request.getfixturevalue("s3")
        run(repository, "dvc", "remote", "add", "-q", "-d", "shared", "s3://bucket/clipaffect")
        for name, value in (
            ("endpointurl", address),
            ("access_key_id", "key"),
            ("secret_access_key", "secret"),
            ("region", "us-east-1"),
        ):
            run(repository, "dvc", "remote", "modify", "-q", "shared", name, value)
    else:
        served = tmp_path / "remote"
        run(repository, "dvc", "remote", "add", "-q", "-d", "shared", str(served))
    commit(repository, "A remote")
    run(repository, "dvc", "push", "-q", STAGES)
    assert any(path.is_file() for path in served.rglob("*"))
    other = tmp_path / "elsewhere"
    run(tmp_path, "git", "clone", "-q", str(repository), str(other))
    refused = run(other, "clipaffect", "dvc", "adopt", CONFIG, fails=True)
    assert "dvc pull" in refused
    assert "Traceback" not in refused
    run(other, "dvc", "pull", "-q", STAGES)
    assert made(other) == made(repository)
    # Files of a checkout have other times, those of the data among them.
    (other / "tests").unlink()
    shutil.copytree(CLIPS, other / CLIPS.relative_to(ROOT), copy_function=shutil.copy)
    run(other, "clipaffect", "dvc", "adopt", CONFIG)
    said = snakemake(other, "--dry-run", "--configfile", CONFIG)
    assert "Nothing to be done" in said.stdout + said.stderr
    assert made(other) == made(repository)
    # From here a changed setting is seen again, as after a run of one's own.
    set_epochs(other)
    said = snakemake(other, "--dry-run", "--configfile", CONFIG)
    assert "train_heads" in said.stdout
    assert "align_faces" not in said.stdout
    refused = run(other, "clipaffect", "dvc", "adopt", CONFIG, fails=True)
    assert "training" in refused
