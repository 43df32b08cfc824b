"""The examples of docs/training.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_train import write_table

from clipaffect.config import parse_config
from clipaffect.store import Store
from clipaffect.tables import read_frame
from clipaffect.tasks import EXPR
from clipaffect.training.stage import train_heads


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs/training.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_one_step_as_a_function(capsys: pytest.CaptureFixture) -> None:
    exec(compile(blocks("python")[0], "docs/training.md", "exec"), {})
    assert "tensor(" in capsys.readouterr().out


def test_variants_with_a_head_and_a_loss_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in blocks("python")[1:]:
        name = re.match(r"# (\w+\.py)", text)
        assert name is not None
        Path(name[1]).write_text(text)
    values = yaml.safe_load(blocks("yaml")[0])
    small = {"width": 16, "epochs": 2, "seeds": [0], "alphas": [0.5, 1.0], "parts": 1}
    settings = parse_config({"training": values["training"] | small}, "x").training
    train_heads(write_table(tmp_path / "table"), EXPR, settings, 0, Store(tmp_path / "s"),
                tmp_path / "out")  # fmt: skip
    heads = read_frame(tmp_path / "out/heads.parquet")
    assert set(heads["variant"]) == {"", "focal", "no-sam", "mine"}
    assert (heads["status"] == "ok").all()
