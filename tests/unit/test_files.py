"""Files: whole or absent, whoever writes them, and whatever happens to the machine."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from forked import forked
from safetensors.torch import load_file

from clipaffect.core.files import Damaged, read_json, synced_later, whole_file, write_text
from clipaffect.core.hashing import file_digest
from clipaffect.core.parquet import write_table
from clipaffect.core.tensors import read_metadata, read_tensors, write_tensors

TENSORS = {
    "head/weight": torch.arange(12.0).reshape(3, 4),
    "head/count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "half": torch.ones(5, dtype=torch.bfloat16),
}


def write_slowly(path: Path) -> None:
    with whole_file(path) as beside:
        beside.write_text("the first")
        print("writing", flush=True)
        while not path.exists():  # until the other one has finished
            time.sleep(0.01)


def test_two_jobs_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with forked(write_slowly, path) as first:
        first.stdout.readline()
        write_text(path, "the second")
        first.process.join()
        assert first.process.exitcode == 0
    assert path.read_text() == "the first"
    assert [own.name for own in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with forked(write_slowly, path) as victim:
        victim.stdout.readline()
        victim.kill()
    (left,) = tmp_path.iterdir()
    elsewhere = left.with_name(left.name.replace(socket.gethostname(), "another-node"))
    shutil.copy(left, elsewhere)
    write_text(path, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, elsewhere])
    old = time.time() - 2 * 3600
    os.utime(elsewhere, (old, old))
    write_text(path, "whole")
    assert [own.name for own in tmp_path.iterdir()] == ["file"]


def test_the_content_is_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "file", []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_text(path, "text")
    assert synced == [(path.stat().st_ino, False)]
    with synced_later():
        write_text(path, "more")
    assert len(synced) == 1


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "tensors", TENSORS)
        write_table(tmp_path / "table", pd.DataFrame({"a": [1]}))
        write_text(tmp_path / "text", "text")
    finally:
        os.umask(before)
    assert {own.stat().st_mode & 0o777 for own in tmp_path.iterdir()} == {0o666 & ~mask}


def test_tensors_come_back(tmp_path: Path) -> None:
    """By our reader and by the library's; part of them, and a text."""
    path = tmp_path / "tensors"
    write_tensors(path, TENSORS, {"epochs": "3"})
    for found in (read_tensors(path), load_file(path)):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], value) for name, value in TENSORS.items())
    assert read_tensors(path, "head/").keys() == {"weight", "count"}
    assert read_metadata(path)["epochs"] == "3"
    for name, tensors in (("one", TENSORS), ("again", dict(reversed(TENSORS.items())))):
        write_tensors(tmp_path / name, tensors)
    assert file_digest(tmp_path / "one") == file_digest(tmp_path / "again")


def test_damaged_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tensors"
    write_tensors(path, TENSORS)
    whole = path.read_bytes()
    for place in (3, 12, len(whole) - 1, len(whole) - 30):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged) as raised:
            read_tensors(path)
        assert raised.value.where == str(path)
    for size in (0, 5, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            read_tensors(path)
    path.write_bytes(whole)
    assert read_tensors(path).keys() == TENSORS.keys()


@pytest.mark.parametrize("text", ["", '{"a": ', "\x00" * 9])
def test_damaged_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Damaged) as raised:
        read_json(tmp_path / "a.json")
    assert raised.value.where == str(tmp_path / "a.json")
    assert "rebuilt" in raised.value.fix


def test_a_missing_file_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json")


def test_a_tensor_file_of_another_program_is_read(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.arange(3)}, tmp_path / "a")
    assert read_tensors(tmp_path / "a")["a"].tolist() == [0, 1, 2]
