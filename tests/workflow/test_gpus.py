"""Which jobs have a GPU, and one job for all shards on a machine with GPUs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import MICRO, micro_anywhere, result_files, snakemake, workplace

RESULTS = Path("results/micro")
ON_GPU = {"embed_faces", "embed_videos", "disturb_crops", "fine_tune"}
TRAINING = {"train_heads", "train_study", "train_wide", "postprocess_scores"}


def jobs(folder: Path, *arguments: str) -> list[tuple[str, str, int, int]]:
    """Rule, wildcards, GPUs and threads of every job of a dry run."""
    said = snakemake(folder, "--dry-run", *arguments).stdout
    found = []
    for text in re.split(r"(?m)^(?:local)?(?:rule|checkpoint) ", said)[1:]:
        name = text.partition(":")[0]
        given = {
            key: match[1] if (match := re.search(rf"(?m)^    {key}: (.*)$", text)) else ""
            for key in ("wildcards", "resources", "threads")
        }
        gpus = re.search(r"\bgpu=(\d+)", given["resources"])
        found.append(
            (name, given["wildcards"], int(gpus[1]) if gpus else 0, int(given["threads"] or 1))
        )
    return found


def test_every_job_that_can_use_a_gpu_gets_one_and_no_other(
    micro_run: Path, tmp_path: Path
) -> None:
    config = micro_anywhere()
    config["environment"] = "cuda"
    config["training"] |= {"device": "cuda"}
    config["prediction"] = {"videos": [config["data"]["videos"]], "shards": 2}
    folder = workplace(tmp_path / "run")
    (folder / "own.yaml").write_text(yaml.safe_dump(config))
    listed = jobs(folder, "--configfile", "own.yaml", "--cores", "8", "--", "all", "studies")
    listed += jobs(folder, "--configfile", "own.yaml", "--cores", "8", "--", "predict")
    rules = {name for name, *_ in listed}
    assert rules >= ON_GPU | TRAINING
    for name, wildcards, gpus, threads in listed:
        network = name in ON_GPU and "pixels" not in wildcards
        trains = name in TRAINING and "beat-it" not in wildcards  # whose head is user code
        assert gpus == int(network or trains), (name, wildcards)
        embeds = network and name.startswith("embed")
        assert threads == (2 if embeds else 1), (name, wildcards)


def test_without_a_gpu_no_job_asks_for_one(tmp_path: Path) -> None:
    assert {gpus for *_, gpus, _ in jobs(workplace(tmp_path / "run"), *MICRO)} == {0}


def test_a_machine_with_gpus_embeds_all_shards_in_one_job(
    micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workplace(tmp_path / "run")
    for name in ("results", ".snakemake", "logs"):
        shutil.copytree(micro_run / name, folder / name)
    shutil.rmtree(folder / RESULTS / "embeddings/micro")
    monkeypatch.setenv("CLIPAFFECT_GPUS", "2")
    targets = [str(RESULTS / f"embeddings/micro/{shard}.parquet") for shard in ("0000", "0001")]
    ((name, wildcards, gpus, threads),) = jobs(folder, *MICRO, "--cores", "8", "--", *targets)
    assert (name, wildcards, gpus, threads) == ("embed_on_gpu", "encoder=micro", 2, 4)
    stopped = snakemake(folder, *MICRO, "--cores", "8", "--", *targets, check=False)
    assert stopped.returncode
    assert "torch cannot use a GPU" in stopped.stderr
    assert "CLIPAFFECT_GPUS_OF_JOB=2" in stopped.stderr
    on_cpu = ("--set-resources", "embed_on_gpu:gpu=0")
    snakemake(folder, *MICRO, *on_cpu, "--", *targets)
    found, expected = (result_files(run / RESULTS / "embeddings") for run in (folder, micro_run))
    assert found == expected
    for count in ("0", "1"):  # another machine makes nothing again
        monkeypatch.setenv("CLIPAFFECT_GPUS", count)
        assert jobs(folder, *MICRO, "--", *targets) == []
    monkeypatch.setenv("CLIPAFFECT_GPUS", "0")
    (folder / targets[0]).unlink()
    redone = jobs(folder, *MICRO, "--config", "environment=cuda", "--cores", "8", "--", *targets)
    assert {(name, gpus) for name, _, gpus, _ in redone} == {("embed_faces", 1)}
