"""The command line: messages instead of tracebacks, and its helpers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT, clipaffect, workplace

from clipaffect.cli.rules import rule_app


def test_each_rule_has_a_command_a_function_and_a_module_of_its_name() -> None:
    rules = re.compile(r"(?ms)^rule (\w+):\n(.*?)(?=^rule |^use rule |\Z)")
    called = {
        rule: found[1].split()
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for rule, body in rules.findall(path.read_text())
        if (found := re.search(r"command\(\s*.((?:rule )?[a-z-]+) ", body))
    }
    for rule, command in called.items():
        # People call export-model, too.
        expected = [rule.replace("_", "-")]
        assert command in (["rule", *expected], expected), rule
        modules = list((ROOT / "src/clipaffect").glob(f"*/{rule}.py"))
        assert len(modules) == 1, rule
        assert re.search(rf"(?m)^def {rule}\(", modules[0].read_text()), rule
    listed = {own.callback.__name__ for own in rule_app.registered_commands if own.callback}
    assert listed == called.keys() - {"export_model"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snakemake leaves a folder where it is called."""
    return workplace(tmp_path_factory.mktemp("place") / "run")


def test_check_reads_the_demo(place: Path) -> None:
    done = clipaffect("check", "config/config.yaml", folder=place)
    assert done.returncode == 0
    assert re.search(r"EXPR +train +104 +110 +5,671 +5,522", done.stdout)
    assert re.search(r"jobs to run|Nothing to be done", done.stdout)
    assert "total" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "nowhere.yaml"), ["no such configuration file", "nowhere.yaml"]),
        (
            ("rule", "fetch-asset", "nothing", "x"),
            ["'nothing'", "face-networks"],
        ),
        (("predict", "nowhere.mp4", "--model", "nowhere", "--out", "x"), ["error"]),
    ],
)
def test_a_mistake_is_a_message(arguments: tuple[str, ...], words: list[str]) -> None:
    done = clipaffect(*arguments)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_file_and_line(place: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("run: x\ntraining: [1\n")
    done = clipaffect("check", str(tmp_path / "c.yaml"), folder=place)
    assert done.returncode == 2
    assert "invalid YAML" in done.stderr


def test_garbage_collection_lists_and_deletes(tmp_path: Path) -> None:
    from clipaffect.core.store import Store

    entry = Store(tmp_path).get_or_make(
        "heads", {"version": 0}, lambda f: (f / "x").write_text("y")
    )
    listed = clipaffect("store", "gc", "--path", str(tmp_path))
    assert str(entry) in listed.stdout
    assert "stage version 0" in listed.stdout
    assert entry.exists()
    clipaffect("store", "gc", "--path", str(tmp_path), "--delete")
    assert not entry.exists()


def test_check_says_what_is_missing(place: Path, tree: Path) -> None:
    (tree / "videos/batch1/a 1.mp4").unlink()
    (tree / "videos/batch1/c10.mp4").write_bytes(b"")
    (tree / "c.yaml").write_text(
        f"run: mine\ndata: {{videos: {tree}/videos, annotations: {tree}/annotations}}\n"
    )
    done = clipaffect("check", str(tree / "c.yaml"), folder=place)
    assert "results/mine/" in done.stdout
    assert "1 person has labels or rows to be predicted, but no crops" in done.stdout
    assert "1 file or folder of crops is empty: " in done.stdout
    assert "c10.mp4" in done.stdout


def test_check_and_run_name_an_encoders_mistake(place: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "encoder: e\nencoders: {e: {model: ViT-L-14, tag: openai, activation: gelu}}\n"
    )
    done = clipaffect("check", str(tmp_path / "c.yaml"), folder=place)
    assert done.returncode == 2
    assert "encoders.e.activation" in done.stderr
    (tmp_path / "d.yaml").write_text("trainin: {}\n")
    done = clipaffect("run", "-n", "--configfile", str(tmp_path / "d.yaml"), folder=place)
    assert done.returncode == 2
    assert "did you mean 'training'" in done.stderr


def test_check_loads_a_users_head(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Head:\n    pass\n")
    (tmp_path / "c.yaml").write_text(
        f"training: {{variants: {{mine: {{head: '{tmp_path}/mine.py:Heat'}}}}}}\n"
    )
    done = clipaffect("check", str(tmp_path / "c.yaml"), folder=place)
    assert done.returncode == 2
    assert "the file does not define 'Heat'" in done.stderr
