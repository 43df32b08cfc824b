"""A run of one's own under a real DVC: its stages are valid, licensed data stays at home."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, result_files
from dvc_repository import CONFIG, RESULTS, STAGES, make_repository, run, set_epochs

from clipaffect.core.errors import UserError
from clipaffect.ops.dvc.record import _changed_stages
from clipaffect.ops.dvc.stages import check_stages, link_data_of_experiment, write_stages


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, "dvc", *arguments)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with DVC, a remote in a folder, and the project's files."""
    folder = tmp_path / "repository"
    folder.mkdir()
    run(folder, "git", "init", "-q")
    dvc(folder, "init", "-q")
    dvc(folder, "remote", "add", "-q", "-d", "shared", str(tmp_path / "remote"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    for name in ("src", "workflow"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def write_config(folder: Path, **data: object) -> Path:
    config = yaml.safe_load((ROOT / "tests/config/micro.yaml").read_text())
    config["data"] |= data
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("data", "reaches"),
    [({"licensed": True}, False), ({"licensed": True, "may_push": True}, True), ({}, True)],
)
def test_licensed_outputs_never_reach_a_remote(
    repository: Path, data: dict[str, bool], *, reaches: bool
) -> None:
    folder = write_stages(write_config(repository, **data), repository)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    names = ["dataset", "faces", "embeddings", "training", "references", "report"]
    assert list(stages) == ["inventory", *names]
    # The file has no key of the faces; an empty list of keys would be the whole file to DVC.
    assert "params" not in stages["faces"]
    for name, stage in stages.items():
        for out in stage["outs"]:
            path = next(iter(out)) if isinstance(out, dict) else out
            assert path.startswith(("results/micro/", "runs/micro/"))
            place = repository / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"made by {name} from faces")
    metrics = repository / "results/micro/report/metrics.json"
    metrics.write_text('{"score": "made from faces"}')
    listed = dvc(repository, "stage", "list", "runs/micro/dvc.yaml")
    assert "runs/micro/dvc.yaml:embeddings" in listed
    # as if the stages had run: DVC takes their outputs into its cache
    dvc(repository, "commit", "-q", "-f", "runs/micro/dvc.yaml")
    dvc(repository, "push", "-q", "-a")
    files = [p.read_text() for p in (repository.parent / "remote").rglob("*") if p.is_file()]
    assert any("from faces" in text for text in files) == reaches


def test_features_from_elsewhere_are_what_a_stage_depends_on(repository: Path) -> None:
    path = write_config(repository)
    config = yaml.safe_load(path.read_text())
    for name in ("theirs.h5", "theirs.txt"):
        (repository / name).write_text("x")
    part = {"file": "theirs.h5", "frames": "theirs.txt"}
    path.write_text(yaml.safe_dump(config | {"features": {"import": {"theirs": part}}}))
    folder = write_stages(path, repository)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    assert {"theirs.h5", "theirs.txt"} < set(stages["embeddings"]["deps"])
    assert "import_features" in stages["embeddings"]["cmd"]
    assert "features" in stages["embeddings"]["params"][0]["runs/micro/config.yaml"]
    assert "runs/micro/dvc.yaml:report" in dvc(repository, "stage", "list", "runs/micro/dvc.yaml")


def test_files_of_ones_own_are_what_heads_depend_on(repository: Path) -> None:
    path = write_config(repository)
    (repository / "mine.py").write_text("from torch import nn\n\n\nclass Thin(nn.Linear): ...\n")
    config = yaml.safe_load(path.read_text())
    config["training"]["head"] = "mine.py:Thin"
    path.write_text(yaml.safe_dump(config))
    stages = yaml.safe_load((write_stages(path, repository) / "dvc.yaml").read_text())["stages"]
    assert [name for name, stage in stages.items() if "mine.py" in stage.get("deps", [])] == [
        "training",
        "report",
    ]


def test_a_key_that_came_later_stops_the_first_stage(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC watches only the keys that were there: results would be stale, and called up to date."""
    folder = write_stages(write_config(repository), repository)
    monkeypatch.chdir(repository)
    copy = Path("runs/micro/config.yaml")
    check_stages(copy, Path())
    config = yaml.safe_load(copy.read_text())
    config["training"]["epochs"] = 5
    copy.write_text(yaml.safe_dump(config))
    check_stages(copy, Path())
    for change in ({"faces": {"stride": 2}}, {"data": config["data"] | {"licensed": True}}):
        copy.write_text(yaml.safe_dump(config | change))
        with pytest.raises(UserError, match="another configuration") as raised:
            check_stages(copy, Path())
        assert "dvc stages runs/micro/config.yaml" in raised.value.fix
    write_stages(copy, Path())
    check_stages(folder.relative_to(repository) / "config.yaml", Path())


def rules_in(text: str) -> set[str]:
    return set(text.partition("--allowed-rules ")[2].partition(" -- ")[0].split())


def test_every_rule_of_a_run_is_allowed_in_a_stage() -> None:
    """A rule that is left out is not in Snakemake's graph: its files would be missing inputs."""
    found = {
        name
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for name in re.findall(r"^(?:rule|use rule \w+ as) (\w+)", path.read_text(), re.MULTILINE)
        if path.stem not in ("cards", "studies", "prediction")
    }
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    allowed = set().union(*(rules_in(stage["cmd"]) for stage in stages.values()))
    # Submissions and final heads are added to a run's own stages; times are not in DVC.
    added = {"write_submission", "write_entry", "train_final_heads", "measure_agreement"}
    assert found - allowed == {*added, "show_timings"}
    for name in ("embeddings", "references"):  # both may need weights that have gone since
        assert {"fetch_asset", "fetch_weights"} <= rules_in(stages[name]["cmd"])


def test_submissions_are_outputs_and_the_demos_own_file_is_refused(repository: Path) -> None:
    (repository / "names.txt").write_text("1-25-480x270\n")
    folder = write_stages(write_config(repository, test={"AU": "names.txt"}), repository)
    report = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]["report"]
    assert "results/micro/submission" in report["outs"]
    assert "write_submission" in report["cmd"]
    assert "--configfile runs/micro/config.yaml" in report["cmd"]
    with pytest.raises(UserError, match="belongs to the top-level"):
        write_stages(ROOT / "config/config.yaml", ROOT)


def test_final_heads_and_entries_are_outputs_of_the_report(repository: Path) -> None:
    (repository / "names.txt").write_text("1-25-480x270\n")
    path = write_config(repository, test={"AU": "names.txt"})
    values = yaml.safe_load(path.read_text())
    values |= {"final_heads": "everybody", "submission": {"entries": {"erm": {"alpha": 1.0}}}}
    path.write_text(yaml.safe_dump(values))
    folder = write_stages(path, repository)
    report = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]["report"]
    assert "results/micro/final" in report["outs"]
    assert {"train_final_heads", "write_entry"} <= rules_in(report["cmd"])
    assert {"final_heads", "submission"} <= set(report["params"][0]["runs/micro/config.yaml"])


def test_every_source_that_a_stage_names_is_there() -> None:
    """DVC refuses to run a stage that depends on a file that was moved."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    named = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("src/")}
    assert len(named) > 8
    assert [dep for dep in sorted(named) if not (ROOT / dep).exists()] == []


def test_a_plain_run_is_registered_only_when_it_is_finished(
    micro_run: Path, tmp_path: Path
) -> None:
    folder = make_repository(tmp_path / "repository")
    record = ("clipaffect", "dvc", "record", CONFIG)
    assert "there is no finished run" in run(folder, *record, fails=True)
    for name in ("results", "store", "logs", ".snakemake"):
        shutil.copytree(micro_run / name, folder / name)
    table = folder / RESULTS / "report/tables/runs.csv"
    table.rename(tmp_path / "lost")
    refused = run(folder, *record, fails=True)
    assert "build_report" in refused
    assert "Traceback" not in refused
    assert not (folder / "runs/micro/dvc.lock").exists()
    (tmp_path / "lost").rename(table)
    set_epochs(folder)
    assert "training.epochs" in run(folder, *record, fails=True)
    run(folder, "git", "checkout", "-q", CONFIG)
    run(folder, *record)
    said = run(folder, "dvc", "repro", STAGES)
    assert "Running stage" not in said.replace(f"Running stage '{STAGES}:inventory'", "")
    assert result_files(folder / RESULTS) == result_files(micro_run / RESULTS)


@pytest.mark.parametrize(
    ("status", "changed"),
    [
        ({}, []),
        ({"d:inventory": ["always changed"]}, []),
        # as DVC 3.67 reports data of other times, on another machine
        (
            {
                "d:inventory": [{"changed outs": {"inventory.txt": "modified"}}, "always changed"],
                "d:dataset": [{"changed deps": {"inventory.txt": "modified"}}],
            },
            [],
        ),
        (
            {"d:dataset": [{"changed deps": {"inventory.txt": "modified", "src": "modified"}}]},
            ["d:dataset"],
        ),
        ({"d:training": [{"changed outs": {"models": "deleted"}}]}, ["d:training"]),
        ({"d:training": ["changed command"]}, ["d:training"]),
    ],
)
def test_only_the_times_of_the_data_may_differ(status: dict[str, list], changed: list[str]) -> None:
    assert _changed_stages(status, "inventory.txt") == changed


def test_an_experiment_gets_links_to_what_git_ignores(repository: Path) -> None:
    """Beside folders that the copy has; never out of the repository."""
    config = write_config(
        repository, videos="data/videos", annotations="own/annotations", images=["../elsewhere"]
    )
    for name in ("data/videos", "own/annotations"):
        (repository / name).mkdir(parents=True)
    link_data_of_experiment(config, repository)
    copy = repository / ".dvc/tmp/exps/standalone/tmp1"
    (copy / "own").mkdir(parents=True)
    link_data_of_experiment(config, copy)
    assert (copy / "data").readlink() == repository / "data"
    assert (copy / "own/annotations").readlink() == repository / "own/annotations"
    assert {path.name for path in copy.iterdir()} == {"data", "own"}
    assert not (repository / "data").is_symlink()


def test_data_cannot_be_staged_by_accident(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "-q")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/face.jpg").touch()
    assert "data" not in run(tmp_path, "git", "status", "--short", "--untracked-files")
