"""The RO-Crate of a run, read by another library, hashed by another program."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from clipaffect.cli.main import app
from clipaffect.core.errors import UserError
from clipaffect.ops.ro_crate import CRATE, Verified, verify, write_crate

RECORD = {
    "config": {"run": "small", "training": {"rho": 0.05, "seeds": [0, 1]}},
    "versions": {"torch": "2.13.0", "clipaffect": "0.0.9"},
    "stages": {"heads": 3},
    "tasks": ["EXPR"],
    "data": {"labels EXPR": "a" * 64},
    "made": {},
    "code": {"my head.py": "b" * 64},
    "results": {
        "models/EXPR/0/heads.safetensors": hashlib.sha256(b"weights").hexdigest(),
        'tables/x/leaf {y} 100% "z".csv': None,
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "results/small"
    for name, text in {
        "report/run.json": json.dumps(RECORD),
        "report/tables/scores.csv": "a,b\n",
        'tables/x/leaf {y} 100% "z".csv': "odd name",
        "models/EXPR/0/heads.safetensors": "weights",
        "timings/rule.tsv": "seconds",
        "studies/index.html": "a study",
        "report/.gitignore": "/tables",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_another_library_reads_what_was_run_and_what_came_out(folder: Path) -> None:
    write_crate(folder)
    crate = ROCrate(str(folder))
    (action,) = crate.get_by_type("CreateAction")
    assert crate.root_dataset["mentions"] == action
    assert action["instrument"]["name"] == "clipaffect"
    assert action["instrument"]["softwareVersion"] == "0.0.9"  # that of the run, not of today
    needs = action["instrument"]["softwareRequirements"]
    assert [(need["name"], need["softwareVersion"]) for need in needs] == [("torch", "2.13.0")]
    inputs = {entity["name"]: entity["value"] for entity in action["object"]}
    assert inputs["config.training.rho"] == "0.05"
    assert inputs["config.training.seeds"] == "[0, 1]"
    assert inputs["data.labels EXPR"] == "a" * 64
    assert inputs["code.my head.py"] == "b" * 64
    files = crate.get_by_type("File", exact=True)
    assert {entity.id for entity in files} == {entity.id for entity in action["result"]}
    assert len(files) == 4
    hashed = subprocess.run(
        ["sha256sum", *(path for path in folder.rglob("*") if path.is_file())],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for entity in files:
        assert entity["sha256"] in hashed


@pytest.mark.parametrize("name", RECORD["results"])
def test_an_incomplete_run_has_no_crate(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match="is missing") as raised:
        write_crate(folder)
    assert name in raised.value.what
    (folder / "models/EXPR/0/heads.safetensors").write_text("w3ights")
    with pytest.raises(UserError, match="is not the file that the run made"):
        write_crate(folder)
    assert not (folder / CRATE).exists()


def test_every_file_that_differs_is_named(folder: Path) -> None:
    write_crate(folder)
    assert verify(folder) == Verified(4, [], [], [])
    assert CliRunner().invoke(app, ["verify", str(folder)]).exit_code == 0
    (folder / "timings/rule.tsv").write_text("other seconds")
    assert verify(folder).is_clean
    (folder / "report/tables/scores.csv").write_text("a,c\n")
    (folder / "models/EXPR/0/heads.safetensors").unlink()
    (folder / "report/extra.txt").write_text("x")
    assert verify(folder) == Verified(
        2,
        ["report/tables/scores.csv"],
        ["models/EXPR/0/heads.safetensors"],
        ["report/extra.txt"],
    )
    said = CliRunner().invoke(app, ["verify", str(folder)])
    assert said.exit_code == 1
    assert "changed: report/tables/scores.csv" in said.stdout
    assert "missing: models/EXPR/0/heads.safetensors" in said.stdout


def test_a_crate_cannot_point_outside(folder: Path) -> None:
    secret = folder.parents[1] / "secret"
    secret.write_text("s")
    path = write_crate(folder)
    crate = json.loads(path.read_text())
    crate["@graph"].append({"@id": "../../secret", "@type": "File", "sha256": "0" * 64})
    path.write_text(json.dumps(crate))
    assert verify(folder).missing == ["../../secret"]


@pytest.mark.parametrize("text", ["", "[]", '{"@graph": [{"@type": "File"}]}', '{"@graph": [1]}'])
def test_what_is_no_crate_is_said_to_be_none(folder: Path, text: str) -> None:
    (folder / CRATE).write_text(text)
    with pytest.raises(UserError, match="is not a crate with"):
        verify(folder)


def test_an_unfinished_run_has_no_crate(folder: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        verify(folder)
    for text in ("{", "[]", '{"config": {}}'):
        (folder / "report/run.json").write_text(text)
        with pytest.raises(UserError, match="not a run record"):
            write_crate(folder)
    (folder / "report/run.json").unlink()
    with pytest.raises(UserError, match="the run is not finished"):
        write_crate(folder)
