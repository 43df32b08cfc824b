"""The examples of docs/training.md and docs/prediction.md run as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from small_heads import small_table

from clipaffect.config import parse_config
from clipaffect.core.parquet import read_table
from clipaffect.core.store import Store
from clipaffect.core.tasks import EXPR
from clipaffect.training.train_heads import train_heads


def blocks(language: str, page: str = "training.md") -> list[str]:
    text = (ROOT / "docs" / page).read_text()
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
    train_heads(
        small_table(tmp_path / "table"), EXPR, settings, 0, Store(tmp_path / "s"), tmp_path / "out"
    )
    heads = read_table(tmp_path / "out/heads.parquet")
    assert set(heads["variant"]) == {"", "focal", "no-sam", "mine"}
    assert (heads["status"] == "ok").all()


def test_a_model_in_python(
    tmp_path: Path,
    real_clips: Path,
    face_networks: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    shutil.copytree(ROOT / "tests/data/bundle-v1", tmp_path / "models/demo")
    shutil.copy(next((ROOT / "tests/data/clips/videos").glob("2-25-*.mp4")), tmp_path / "video.mp4")
    shutil.copy(real_clips / "group.jpg", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPAFFECT_ASSETS", str(face_networks))
    names: dict[str, object] = {}
    for text in blocks("python", "prediction.md"):
        exec(compile(text, "docs/prediction.md", "exec"), names)
    assert len(names["frames"]) == 105
    assert len(names["faces"]) == 5
    assert "EXPR_Happiness" in capsys.readouterr().out
