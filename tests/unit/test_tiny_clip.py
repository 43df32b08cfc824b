"""The project's own CLIP: its words, its loss against open_clip's, its weights on new people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASSETS, ROOT
from typer.testing import CliRunner

from clipaffect.config.encoders import Encoder
from clipaffect.core.parquet import read_table
from clipaffect.encoders.captions import EXPRESSION_NAMES, UNIT_NAMES
from clipaffect.encoders.kinds.open_clip import build_model
from clipaffect.encoders.tokenizer import CONTEXT, END, PADDING, UNKNOWN, tokenize
from clipaffect.synthetic import __main__ as commands
from clipaffect.synthetic import portraits
from clipaffect.synthetic import train_tiny_clip as train
from clipaffect.synthetic.__main__ import app
from clipaffect.synthetic.actions import UNITS, units_shown
from clipaffect.synthetic.captions import caption
from clipaffect.synthetic.train_tiny_clip import Recipe, augment, contrastive_loss, zero_shot

TINY = Encoder(model="clipaffect-tiny", asset="tiny-clip", activation="relu", precision="fp32")
RIG = ROOT / "resources/demo/head_rig.npz"


def test_every_unit_and_expression_of_the_renderer_has_a_name() -> None:
    assert set(UNIT_NAMES) == set(UNITS)
    from clipaffect.core.tasks import EXPR

    assert set(EXPRESSION_NAMES) | {"Other"} == set(EXPR.targets)


def test_every_caption_is_made_of_known_words_and_fits() -> None:
    rng = np.random.default_rng(0)
    shows = [portraits.draw_show(rng) for _ in range(2000)]
    texts = [caption(show.expression, units_shown(show.units), rng) for show in shows]
    assert max(len(text.split()) for text in texts) <= CONTEXT - 2
    tokens = tokenize(texts)
    assert tokens.shape == (len(texts), CONTEXT)
    assert not (tokens == UNKNOWN).any()
    # The end is the largest number (open_clip pools there), once in every row.
    assert ((tokens == END).sum(1) == 1).all()
    assert int(tokens.max()) == END
    model = build_model(TINY, Path())
    assert model.vocab_size > END


def test_other_words_are_unknown_and_the_rest_is_padding() -> None:
    (row,) = tokenize(["a face, showing FEAR from spiders"]).tolist()
    assert row.count(UNKNOWN) == 2
    assert row[8:] == [PADDING] * (CONTEXT - 8)


@pytest.mark.parametrize("intensity", [0.19, 0.2, 0.44, 0.46, 0.74, 0.76])
def test_a_caption_names_what_is_seen_and_how_strong(intensity: float) -> None:
    rng = np.random.default_rng(1)
    texts = {caption("", {12: intensity, 4: 0.0}, rng) for _ in range(50)}
    words = {
        0.19: None,
        0.2: "slight",
        0.44: "slight",
        0.46: "marked",
        0.74: "marked",
        0.76: "extreme",
    }[intensity]
    assert all("brow" not in text for text in texts)
    assert all((f"{words} lip corner puller" in text) == (words is not None) for text in texts)


def unit_vectors(count: int, seed: int) -> torch.Tensor:
    vectors = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_the_loss_is_open_clips_where_captions_differ() -> None:
    from clipaffect.encoders.untrained import open_clip

    images, texts, scale = unit_vectors(6, 0), unit_vectors(6, 1), torch.tensor(9.0)
    ours = contrastive_loss(images, texts, scale, list("abcdef"))
    theirs = open_clip().loss.ClipLoss()(images, texts, scale)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_equal_captions_are_equally_right() -> None:
    images, texts = unit_vectors(4, 0), unit_vectors(4, 1)
    texts[1] = texts[0]
    captions = ["same", "same", "b", "c"]
    loss = contrastive_loss(images, texts, torch.tensor(9.0), captions)
    swapped = contrastive_loss(images[[1, 0, 2, 3]], texts, torch.tensor(9.0), captions)
    assert loss.item() == pytest.approx(swapped.item(), rel=1e-6)
    logits = 9.0 * images @ texts.T
    row = -torch.log_softmax(logits[0], 0)[:2].mean()
    column = -torch.log_softmax(logits[:, 0], 0)[:2].mean()
    one = torch.stack([row, column])
    rows = torch.nn.functional.cross_entropy(logits, torch.arange(4), reduction="none")
    columns = torch.nn.functional.cross_entropy(logits.T, torch.arange(4), reduction="none")
    by_hand = torch.stack([one[0], -torch.log_softmax(logits[1], 0)[:2].mean(), *rows[2:]])
    by_hand_columns = torch.stack(
        [one[1], -torch.log_softmax(logits[:, 1], 0)[:2].mean(), *columns[2:]]
    )
    expected = (by_hand.mean() + by_hand_columns.mean()) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.fixture(scope="module")
def strangers(face_networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portraits of people whom the shipped weights have not seen."""
    out = tmp_path_factory.mktemp("portraits")
    seed = portraits.SEED
    portraits.SEED = 4242
    try:
        portraits.make_portraits(out, RIG, face_networks, people=8, stills=10, processes=1)
    finally:
        portraits.SEED = seed
    return out


def test_portraits_are_the_same_bytes_again(
    strangers: Path, face_networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portraits, "SEED", 4242)
    portraits.make_portraits(tmp_path, RIG, face_networks, people=2, stills=10, processes=1)
    again = np.load(tmp_path / "crops.npy")
    assert len(again) >= 15
    assert again.tobytes() == np.load(strangers / "crops.npy")[: len(again)].tobytes()


def test_the_demos_people_are_others() -> None:
    import inspect

    from clipaffect.synthetic.make_data import generate

    assert inspect.signature(generate).parameters["seed"].default != portraits.SEED


def test_augmentation_depends_on_its_generator_alone(strangers: Path) -> None:
    crops = torch.from_numpy(np.load(strangers / "crops.npy")[:6])
    one, again, other = (augment(crops, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert one.shape == (6, 3, 112, 112)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_shipped_weights_read_expressions_of_strangers_by_prompts(strangers: Path) -> None:
    rows = read_table(strangers / "shows.parquet")
    model = build_model(TINY, Path()).eval()
    scores = zero_shot(model, np.load(strangers / "crops.npy"), rows)
    assert scores["crops"] > 30
    assert scores["accuracy"] > 0.5  # chance 1 in 7


@pytest.mark.parametrize("steps", [3, pytest.param(24, marks=pytest.mark.slow)])
def test_training_brings_pictures_and_their_captions_together(
    strangers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    from conftest import asset

    monkeypatch.setattr(train, "LOG_EVERY", 1)
    start = asset("mobilenet-v2") / "mobilenet-v2/encoder.pth"
    out = tmp_path / "tiny.safetensors"
    recipe = Recipe(steps=steps, batch=steps, warmup=steps // 6, held_out=0.25)
    scores = train.train(strangers, start, out, recipe)
    assert scores["people"] == 2
    log = np.genfromtxt(out.with_suffix(".csv"), delimiter=",", names=True)
    assert log["step"].tolist() == list(range(1, steps + 1))
    if steps == 24:
        assert log["loss"][-4:].mean() < 0.75 * np.log(24)
    assert out.stat().st_size < 12e6
    again = tmp_path / "again.safetensors"
    train.train(strangers, start, again, recipe)
    assert again.read_bytes() == out.read_bytes()


def test_the_commands_hand_on_what_they_are_told(
    strangers: Path, face_networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, out, assets = tmp_path / "few", tmp_path / "t.safetensors", ("--assets", str(ASSETS))
    sizes = ("--people", "2", "--stills", "2", "--processes", "1", "--rig", str(RIG))
    done = CliRunner().invoke(app, ["render-portraits", str(few), *sizes, *assets])
    assert done.exit_code == 0, done.output
    assert 2 <= len(np.load(few / "crops.npy")) <= 4  # a face is not found in every still

    def small(portraits: Path, start: Path, out: Path, recipe: Recipe) -> dict[str, float]:
        told = replace(recipe, batch=2, warmup=0, held_out=0.25)
        return train.train(portraits, start, out, told) | {"steps": recipe.steps}

    monkeypatch.setattr(commands, "train", small)
    told = ("--steps", "1", "--threads", "1")
    done = CliRunner().invoke(app, ["train-tiny-clip", str(strangers), str(out), *told, *assets])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 1
    assert out.is_file()
