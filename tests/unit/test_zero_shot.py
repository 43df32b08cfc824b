"""CLIP by prompts: probabilities as open_clip's own forward pass gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import micro_anywhere
from small_heads import small_table
from typer.testing import CliRunner

from clipaffect.cli.main import app
from clipaffect.config import parse_config
from clipaffect.config.encoders import Encoder
from clipaffect.config.models import Config, ZeroShot
from clipaffect.config.stage_keys import settings_json
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.encoders.kinds.open_clip import build_model
from clipaffect.encoders.prompts import has_text_tower, prompt_features, task_prompts
from clipaffect.encoders.tokenizer import tokenize
from clipaffect.encoders.untrained import open_clip
from clipaffect.evaluation.references import zero_shot_scores
from clipaffect.training.data import read_split

TINY = Encoder(model="clipaffect-tiny", asset="tiny-clip", activation="relu", precision="fp32")
ONE = ZeroShot(prompts={EXPR.name: {name: (f"a face showing {name}",) for name in EXPR.targets}})


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_model(TINY, Path()).eval()


def test_classes_are_as_open_clips_forward_pass_says(model, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(5, 3, 112, 112)
    with torch.no_grad():
        features = model.visual(images)
        faces, texts, scale = model(images, tokenize([p[0] for p, _ in task_prompts(EXPR, ONE)]))
        expected = (scale * faces @ texts.T).softmax(dim=1)
    prompts = prompt_features(TINY, EXPR, ONE, Path(), Store(tmp_path))
    found = zero_shot_scores(features, prompts)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    # The length of an embedding does not count.
    assert zero_shot_scores(features * 7, prompts) == pytest.approx(found, abs=1e-5)


def test_a_unit_is_there_if_the_face_is_nearer_to_it_than_to_its_absence(
    model, tmp_path: Path
) -> None:
    stated = ZeroShot(
        prompts={"AU": {"AU12": ("a face with lip corner puller",)}},
        absent=("a face showing neutral",),
    )
    prompts = prompt_features(TINY, AU, stated, Path(), Store(tmp_path))
    with torch.no_grad():
        there, not_there = model.encode_text(
            tokenize(["a face with lip corner puller", "a face showing neutral"]), normalize=True
        )
    faces = torch.stack([there, not_there, there + not_there])
    scores = zero_shot_scores(faces, prompts)[:, AU.targets.index("AU12")]
    expected = torch.sigmoid(prompts["scale"] * (1 - there @ not_there)).item()
    assert expected > 0.9  # the two prompts are far apart
    assert scores[0] == pytest.approx(expected, abs=1e-4)
    assert scores[1] == pytest.approx(1 - expected, abs=1e-4)
    assert scores[2] == pytest.approx(0.5, abs=1e-3)


def test_prompts_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prompt_features(TINY, EXPR, ONE, Path(), Store(tmp_path))
    monkeypatch.setattr("clipaffect.encoders.prompts.build_model", None)
    again = prompt_features(TINY, EXPR, ONE, Path(), Store(tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_prompts_name_units_by_facs_and_other_labels_by_themselves() -> None:
    present, absent = task_prompts(AU, ZeroShot())[AU.targets.index("AU15")]
    assert present[0] == "a face with lip corner depressor"
    assert absent[0] == "a face showing neutral"
    labels = Task("labels", ("Smile", "AU99"), True)
    assert [p[0] for p, _ in task_prompts(labels, ZeroShot())] == [
        "a face with smile",
        "a face with au99",
    ]
    classes = task_prompts(EXPR, ZeroShot())
    assert [p[0] for p, _ in classes][-2:] == [
        "a face showing surprise",
        "a face showing another emotion",
    ]
    assert all(a == [] for _, a in classes)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model": "clipaffect-tiny", "asset": "tiny-clip", "activation": "relu"}, True),
        ({"model": "ViT-L-14-quickgelu", "tag": "openai", "activation": "quickgelu"}, True),
        ({"model": "ViT-B-16-SigLIP", "tag": "webli", "activation": "gelu"}, False),
        ({"model": "clipaffect-dinov2-s14", "asset": "dinov2-s14", "activation": "gelu"}, False),
        ({"model": "ViT-B-32", "random": 0, "activation": "gelu"}, False),
        ({"kind": "pixels"}, False),
    ],
)
def test_which_encoders_can_be_asked(values: dict, expected: bool) -> None:
    assert has_text_tower(Encoder(**values)) is expected


def test_openais_words_are_tokenised_without_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokens = open_clip().get_tokenizer("ViT-L-14-quickgelu")(["a face showing anger"])
    assert tokens.shape == (1, 77)
    assert int((tokens > 0).sum()) == 6  # four words between a start and an end


def test_prompts_for_what_is_not_there_are_refused() -> None:
    from clipaffect.config import parse_config

    for prompts, word in (({"XY": {}}, "XY"), ({"AU": {"AU77": ["a face"]}}, "AU77")):
        with pytest.raises(UserError) as error:
            parse_config({"zero_shot": {"prompts": prompts}}, "test")
        assert word in str(error.value.what)
    assert Config(zero_shot={"prompts": {"EXPR": {"Fear": ["afraid"]}}})


def test_a_row_of_zeros_is_no_division_by_zero(tmp_path: Path) -> None:
    prompts = prompt_features(TINY, EXPR, ONE, Path(), Store(tmp_path))
    assert zero_shot_scores(torch.zeros(1, 256), prompts) == pytest.approx(np.full((1, 8), 1 / 8))


def test_a_class_of_several_prompts_is_the_direction_of_their_mean(model, tmp_path: Path) -> None:
    texts = ("a face showing Fear", "a photo of a face showing Fear, extreme lips part")
    stated = ZeroShot(prompts={EXPR.name: {name: texts for name in EXPR.targets}})
    with torch.no_grad():
        each = torch.nn.functional.normalize(model.encode_text(tokenize(list(texts))), dim=-1)
    expected = each.mean(dim=0) / each.mean(dim=0).norm()
    assert each.mean(dim=0).norm() < 0.999
    found = prompt_features(TINY, EXPR, stated, Path(), Store(tmp_path))["present"]
    assert found[0].numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_the_references_of_an_encoder_with_a_text_tower_include_its_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of the rule: probe and prompts on the same frames."""
    config = micro_anywhere() | {"encoder": "tiny", "encoders": {"tiny": TINY.model_dump()}}
    config["postprocess"] = {"steps": []}
    settings = settings_json(
        parse_config(config, ""),
        "references",
        "probe",
        "training_rows",
        "zero_shot",
        "encoders.tiny",
        "tasks.EXPR",
    )
    (tmp_path / "table").mkdir()
    d = build_model(TINY, Path()).visual(torch.zeros(1, 3, 112, 112)).shape[1]
    table = small_table(tmp_path / "table", d=d)
    words = ["rule", "fit-references", "--settings", settings, "tiny", str(table)]
    words += ["--out", str(tmp_path / "scores.parquet")]
    monkeypatch.setenv("CLIPAFFECT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CLIPAFFECT_ASSETS", str(tmp_path))
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    rows = read_table(tmp_path / "scores.parquet")
    by_method = rows.groupby("method")["frame"].apply(list)
    assert by_method.keys().tolist() == ["linear_probe", "zero_shot"]
    assert by_method["linear_probe"] == by_method["zero_shot"]
    validation = read_split(table, EXPR, "validation")
    prompts = prompt_features(TINY, EXPR, ZeroShot(), Path(), Store(tmp_path / "store"))
    scores = np.stack(rows[rows["method"] == "zero_shot"]["scores"])
    assert scores == pytest.approx(zero_shot_scores(validation.features, prompts))
