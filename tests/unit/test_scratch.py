"""Files on a node's own disk: copied when there is one with room, and gone afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipaffect.core import node_scratch as scratch
from clipaffect.core.errors import UserError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "features.npy").write_bytes(b"features" * 100)
    (folder / "other").write_bytes(b"not asked for")
    return folder


def test_a_copy_lies_on_the_scratch_disk_while_it_is_used(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("NODE_DISK", str(disk))
    monkeypatch.setenv(scratch.VARIABLE, "$NODE_DISK")
    with scratch.scratch_copy(table, ["features.npy"]) as near:
        assert near.parent == disk
        assert [p.name for p in near.iterdir()] == ["features.npy"]
        assert (near / "features.npy").read_bytes() == (table / "features.npy").read_bytes()
    assert not list(disk.iterdir())


@pytest.mark.parametrize(
    "setting", ["", "$A_VARIABLE_THAT_NOBODY_SETS", "$SET_TO_NOTHING", "${SET_TO_NOTHING}/tmp"]
)
def test_without_a_disk_the_table_is_read_in_place(
    table: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("SET_TO_NOTHING", "")
    monkeypatch.setenv(scratch.VARIABLE, setting)
    with scratch.scratch_copy(table, ["features.npy"]) as near:
        assert near == table


def test_a_full_disk_is_no_reason_to_stop(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path))
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 10}))
    with scratch.scratch_copy(table, ["features.npy"]) as near:
        assert near == table
    assert "has no room" in caplog.text


@pytest.mark.parametrize("setting", ["/no/such/folder", "."])
def test_a_folder_that_is_not_there_names_the_setting(
    table: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv(scratch.VARIABLE, setting)
    with (
        pytest.raises(UserError, match="does not exist on this machine") as error,
        scratch.scratch_copy(table, ["features.npy"]),
    ):
        pass
    assert "paths.scratch" in error.value.where
