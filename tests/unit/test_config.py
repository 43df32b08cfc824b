"""Configuration: defaults, errors that help, and files generated from the models."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from clipaffect.config import load_config, parse_config
from clipaffect.config.data import Data
from clipaffect.config.models import Config
from clipaffect.config.presets import preset_changes, preset_values
from clipaffect.config.training import Recipe, Training
from clipaffect.core.errors import UserError
from clipaffect.ops.conda_envs import needed, pinned
from clipaffect.ops.generated_docs import generated_files

ROOT = Path(__file__).parents[2]
CONFIGS = [*(ROOT / "config").glob("*.yaml"), *(ROOT / "tests/config").glob("*.yaml")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    load_config(path)
    schema = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_the_default_file_is_the_defaults() -> None:
    loaded = load_config(ROOT / "config/config.yaml")
    data = Data(source="rendered", people="resources/demo/people.csv", shards=2)
    assert loaded == Config(
        preset="recommended", data=data, training=Training(tasks=("EXPR", "AU"))
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trainin": {}}, ["unknown key 'trainin'", "did you mean 'training'"]),
        ({"training": {"alpha": [1]}}, ["'training.alpha'", "did you mean 'alphas'"]),
        ({"encoders": {"a": {"modell": "x"}}}, ["'encoders.a.modell'", "did you mean 'model'"]),
        ({"data": {"subset": {"trian": 1}}}, ["'data.subset.trian'", "did you mean 'train'"]),
        ({"training": {"alphas": [0, 1]}}, ["'training.alphas.0' is 0", "greater than 0"]),
        ({"training": {"alphas": [1.5, 1]}}, ["'training.alphas.0' is 1.5", "less than or equal"]),
        ({"training": {"alphas": [0.5]}}, ["must contain 1.0"]),
        ({"training": {"alphas": [0.5, 0.5, 1]}}, ["lists 0.5 twice"]),
        ({"training": {"seeds": [1, 1]}}, ["lists 1 twice"]),
        ({"training": {"headline_alpha": 0.2}}, ["'headline_alpha' 0.2 is not one of"]),
        (
            {"submission": {"entries": {"x": {"variant": "focal"}}}},
            ["'submission.entries.x.variant'", "unknown variant 'focal'", "available: none"],
        ),
        (
            {"submission": {"entries": {"x": {"alpha": 0.2}}}},
            ["no head is trained at alpha 0.2", "0.1, 0.3, 0.5, 0.7, 0.9, 1"],
        ),
        (
            {"submission": {"entries": {"x": {"alpha": 0.3, "steps": "postprocessed"}}}},
            ["'submission.entries.x.steps'", "headline heads only"],
        ),
        (
            {"submission": {"steps": "postprocessed"}, "postprocess": {"steps": []}},
            ["'submission.steps' is postprocessed, but 'postprocess.steps' is empty"],
        ),
        (
            {
                "submission": {"steps": "postprocessed"},
                "final_heads": "scored",
                "data": {"split": {"by": "folds"}},
            },
            ["each fold has other steps", "final_heads: everybody"],
        ),
        ({"training": {"epochs": "ten"}}, ["'training.epochs' is 'ten'", "integer"]),
        ({"training": {"tasks": ["VA"]}}, ["the unknown task 'VA'", "available: EXPR, AU"]),
        ({"run": "../up"}, ["'run' is '../up'", "plain name"]),
        ({"run": "a/b"}, ["plain name"]),
        ({"run": "my run"}, ["plain name"]),
        ({"run": "-x"}, ["plain name"]),
        ({"run": "{x}"}, ["plain name"]),
        ({"run": ""}, ["'run' is ''"]),
        ({"encoders": {"a;b": {"kind": "pixels"}}}, ["plain name"]),
        ({"training": {"seeds": [-1]}}, ["'training.seeds.0' is -1"]),
        ({"training": {"alphas": [0.5, 0.5, 1]}}, ["lists 0.5 twice"]),
        ({"preset": "papers"}, ["'preset' is 'papers'", "'published_code'"]),
        ({"training": {"loss": "focal"}}, ["'loss' focal has no alpha", "variants"]),
        ({"training": {"loss": "mine"}}, ["'mine'", "my_loss.py:ClassName"]),
        (
            {"training": {"variants": {"a": {"los": "focal"}}}},
            ["'variants.a.los'", "did you mean 'loss'"],
        ),
        (
            {"training": {"variants": {"a": {"rho": -1}, "b": {}}}},
            ["'variants.a.rho' is -1", "greater than or equal to 0"],
        ),
        ({"training": {"variants": {"a/b": {}}}}, ["'a/b' is not a plain name"]),
        (
            {"training": {"device": "cuda", "head": "my_head.py:Mine"}},
            ["the recipe: user classes need device: cpu"],
        ),
        ({"training": {"alphas": [0.1234567, 0.1234568, 1]}}, ["lists 0.123457 twice"]),
        ({"probe": {"strengths": [float("inf")]}}, ["'probe.strengths.0' is inf", "finite"]),
        (
            {"encoders": {"a": {"model": "M", "activation": "gelu", "asset": "face-networks"}}},
            ["'asset' face-networks has no weights of M"],
        ),
        ({"encoder": "clip"}, ["unknown 'encoder' 'clip'", "tiny-clip"]),
        ({"encoders": {"a": {"model": "M", "tag": "t"}}, "encoder": "a"}, ["needs 'activation'"]),
        (
            {"encoders": {"a": {"model": "M", "activation": "gelu"}}, "encoder": "a"},
            ["exactly one of tag, file, asset and random; given: none"],
        ),
        (
            {"encoders": {"a": {"model": "M", "activation": "gelu", "file": "w"}}, "encoder": "a"},
            ["needs 'sha256'"],
        ),
        ({"data": []}, ["'data'"]),
    ],
)
def test_a_mistake_names_key_value_and_mend(values: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(values, "my.yaml")
    for word in words:
        assert word in str(caught.value)
    assert caught.value.where == "my.yaml"
    assert "docs/configuration.md" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\n", "invalid YAML"),
        ("- a list\n", "mapping"),
        ("run: \xff\n".encode("latin-1"), "not valid UTF-8"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words) as caught:
        load_config(path)
    assert str(path) in caught.value.where


def test_numbers_may_be_written_as_yaml_leaves_them() -> None:
    # YAML 1.1 reads 1e-3 as a string.
    values = yaml.safe_load("training: {learning_rate: 1e-3}")
    assert parse_config(values, "x").training.learning_rate == 0.001


@pytest.mark.parametrize("path", generated_files(ROOT), ids=str)
def test_generated_files_are_up_to_date(path: Path) -> None:
    found = (ROOT / path).read_text(encoding="utf-8")
    assert found == generated_files(ROOT)[path], "run: clipaffect docs"


def test_conda_specifications_parse_strictly() -> None:
    from rattler import MatchSpec

    for path in [ROOT / "environment.yml", *(ROOT / "workflow/envs").glob("*.yaml")]:
        content = yaml.safe_load(path.read_text())
        # From conda 26.7 on, the pseudo-channel nodefaults is asked for and answers 404.
        assert content["channels"] == ["conda-forge"]
        specs = [spec for spec in content["dependencies"] if isinstance(spec, str)]
        assert any(spec.startswith("python ") for spec in specs)
        for spec in specs:
            MatchSpec(spec, strict=True)
        # Jobs get everything else from a script, and no project: the workflow sets its own path.
        pip = [spec["pip"] for spec in content["dependencies"] if isinstance(spec, dict)]
        if path.name != "environment.yml":
            assert specs == ["python =3.11", "pip"]
            assert pip == []
        else:
            assert "-e ." in pip[0]


STARTS_RUNS = ("snakemake", "dvc", "celery", "conda", "snakemake-executor-plugin-slurm")


@pytest.mark.parametrize(
    ("name", "starts_runs"),
    [
        ("environment.yml", True),
        ("workflow/envs/cpu.post-deploy.sh", False),
        ("workflow/envs/cuda.post-deploy.sh", False),
    ],
)
def test_environments_hold_the_versions_of_the_constraints(name: str, starts_runs: bool) -> None:
    """What jobs need, and what starts runs only where a person starts them."""
    lines = re.findall(
        r"^(?: +- )?([A-Za-z][\w.-]*==[^\s;]+)", (ROOT / name).read_text(), re.MULTILINE
    )
    found = {line.replace("+cpu", "") for line in lines}
    assert found <= set(pinned(ROOT).values())
    names = {line.partition("==")[0].lower() for line in found}
    assert {"torch", "torchvision", "open_clip_torch", "pyarrow", "altair", "onnx"} <= names
    assert not {"pytest", "transformers"} & names
    assert bool(names & set(STARTS_RUNS)) == starts_runs


def test_torch_and_torchvision_are_the_pair_that_fits() -> None:
    pins = needed(ROOT, ("stages",))
    assert "torch==2.13.0" in pins
    assert "torchvision==0.28.0" in pins


def test_an_index_that_is_not_reached_is_named(tmp_path: Path) -> None:
    """No other package is installed then, and no other build of torch."""
    stub = tmp_path / "python"
    stub.write_text(
        '#!/bin/sh\necho "$@" >> "$0.calls"\ncase "$*" in *--index-url*) exit 1 ;; esac\n'
    )
    stub.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "workflow/envs/cpu.post-deploy.sh")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CLIPAFFECT_TORCH_INDEX": "https://mirror/cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "could not be installed from https://mirror/cpu" in done.stderr
    (call,) = stub.with_name("python.calls").read_text().splitlines()
    assert "--retries 2 --timeout 20" in call
    assert "--no-deps --index-url https://mirror/cpu torch==" in call


def test_presets_hold_the_published_values() -> None:
    # the table of the published code's constants (train.py, train_au.py, DFAD_model_base.py)
    config = parse_config({"preset": "published_code"}, "x")
    t = config.training
    assert (t.hidden_layers, t.width, t.dropout, t.rho, t.perturbation) == (3, 768, 0.6, 0.5, "l2")
    assert (t.batch, t.epochs, t.learning_rate, t.weight_decay) == (32, 32, 1e-3, 1e-4)
    assert (t.cosine_share, t.final_learning_rate, t.select_on) == (0.25, 1e-5, "last")
    assert (t.headline_alpha, t.cvar.gradient, t.drop_incomplete_rows) == (0.5, "published", True)
    encoder = config.encoders[config.encoder]
    assert (encoder.model, encoder.activation) == ("ViT-L-14-quickgelu", "quickgelu")
    assert (config.faces.crop, config.faces.size, config.data.edition) == ("aligned", 112, 6)
    paper = parse_config({"preset": "paper"}, "x").training
    assert (paper.hidden_layers, paper.perturbation) == (2, "sign")


def test_the_recommended_recipe_is_the_default() -> None:
    preset = parse_config({"preset": "recommended"}, "x").training.recipes()[""]
    assert preset == Config().training.recipes()[""]


@pytest.mark.parametrize("name", ["paper", "published_code", "recommended"])
def test_a_preset_fixes_every_key_of_the_recipe(name: str) -> None:
    only_other_losses = {"class_balanced", "focal", "chi_square", "inner_share"}
    missing = set(Recipe.model_fields) - only_other_losses - set(preset_values(name)["training"])
    assert not missing
    assert {"faces", "encoder", "encoders"} <= set(preset_values(name))
    assert preset_changes(parse_config({"preset": name}, "x")) == []


def test_own_keys_win_over_a_preset_and_are_listed() -> None:
    values = {
        "preset": "published_code",
        "training": {"epochs": 4, "alphas": [0.5, 1.0]},
        "encoder": "pixels",
        "encoders": {"pixels": {"kind": "pixels"}},
    }
    config = parse_config(values, "x")
    assert (config.training.epochs, config.training.rho) == (4, 0.5)
    assert set(config.encoders) == {"pixels"}  # an encoder nobody asked for would be fetched
    changes = preset_changes(config)
    assert "training.epochs: 32 -> 4" in changes
    assert len(changes) == 3


def test_variants_change_a_recipe() -> None:
    values = {"variants": {"no-sam": {"rho": 0}, "focal": {"loss": "focal"}}, "seeds": [0, 1]}
    training = parse_config({"training": values}, "x").training
    assert training.recipes()["no-sam"] == training.recipes()[""].model_copy(update={"rho": 0.0})
    names = [(variant, alpha) for variant, alpha, seed in training.heads() if seed == 0]
    assert names[-3:-1] == [("no-sam", 0.5), ("no-sam", 1.0)]
    assert names[-1][0] == "focal"
    assert np.isnan(names[-1][1])
