"""The workflow on a real SLURM gives the bytes of one machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import MICRO, asset, copy_of, result_files, snakemake, workplace
from slurm import GPU_NODE, Cluster, whole_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # of a slow machine
RESULTS = Path("results/micro")


def test_a_cluster_gives_the_bytes_of_one_machine(
    cluster_without_accounting: Cluster, micro_run: Path, tmp_path: Path
) -> None:
    cluster = cluster_without_accounting
    folder = workplace(tmp_path / "run")
    code, said = whole_run(cluster, folder, *MICRO, "--slurm-status-command", "squeue")
    assert code == 0, said[-3000:]
    assert result_files(folder / RESULTS) == result_files(micro_run / RESULTS)
    jobs = cluster.jobs().values()
    nodes = {comment.partition("_wildcards")[0]: node for _, node, comment in jobs}
    assert GPU_NODE not in nodes.values(), "nothing asks for a GPU"
    # Downloads and targets stay where Snakemake runs; logs of what went well are removed.
    assert not {"rule_fetch_asset", "rule_all"} & set(nodes)
    assert re.search(r"Submitted array job with Snakemake IDs \d+,\d+", said)
    logs = (folder / ".snakemake/slurm_logs").rglob("*.log")
    assert {log.parent.name for log in logs} <= {"rule_extract_frames"}  # array tasks' are kept


def test_a_job_that_needs_a_gpu_goes_where_one_is_and_never_computes_on_the_cpu(
    cluster: Cluster, micro_run: Path, tmp_path: Path
) -> None:
    """The node's GPUs are pretended, and this torch can use none."""
    folder = copy_of(micro_run, tmp_path)
    shutil.rmtree(folder / RESULTS / "embeddings")
    targets = [f"{RESULTS}/embeddings/{name}/0000.parquet" for name in ("micro", "pixels")]
    code, said = whole_run(
        cluster, folder, *MICRO, "--config", "environment=cuda", "--retries", "0", "--", *targets
    )
    assert code
    assert "torch cannot use a GPU: torch" in said
    assert "CLIPAFFECT_GPUS_OF_JOB=1" in said
    nodes = {comment: node for _, node, comment in cluster.jobs().values()}
    assert nodes["rule_embed_faces_wildcards_micro_0000"] == GPU_NODE
    assert nodes["rule_embed_faces_wildcards_pixels_0000"] != GPU_NODE
    assert not (folder / targets[0]).exists()
    assert (folder / targets[1]).exists()


@pytest.mark.slow  # a quarter of an hour
def test_the_demo_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """Beside it a run on this machine that has only the cluster's faces and embeddings."""
    asset("face-networks")
    here, there = workplace(tmp_path / "here"), workplace(tmp_path / "there")
    code, said = whole_run(cluster, there)
    assert code == 0, said[-3000:]
    for kind in ("detections", "embeddings"):
        shutil.copytree(there / "store" / kind, here / "store" / kind)
    snakemake(here)
    files = result_files(there / "results/demo")
    assert "report/metrics.json" in files
    assert files == result_files(here / "results/demo")


def test_a_partition_that_is_not_there_is_said_before_any_job(
    cluster: Cluster, micro_run: Path, tmp_path: Path
) -> None:
    folder = copy_of(micro_run, tmp_path)
    code, said = whole_run(
        cluster, folder, "training_all", *MICRO, "--default-resources", "slurm_partition=nowhere"
    )
    assert code == 2
    assert "no partition nowhere; available: cpu, gpu" in said
    assert "Traceback" not in said
