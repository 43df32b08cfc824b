"""Encoders against independent implementations that hold the same weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import asset
from safetensors.torch import save_file

from clipaffect.config.encoders import Encoder
from clipaffect.core.errors import UserError
from clipaffect.encoders.kinds.open_clip import NORMALISATIONS, build_model, visual_activations
from clipaffect.encoders.registry import encoder_record, load_encoder
from clipaffect.encoders.untrained import open_clip

NOWHERE = Path("no assets needed")


def picture(seed: int = 0, side: int = 224) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return np.kron(coarse, np.ones((side // 8, side // 8, 1), np.uint8))


def test_dinov2_is_the_network_in_the_file(dinov2: Path, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    source = dinov2 / "dinov2-s14/encoder.onnx"
    model = onnx.load(str(source))
    tap = "/backbone/layernorm/Add_1_output_0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(tap, 1, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    settings = Encoder(
        model="clipaffect-dinov2-s14",
        asset="dinov2-s14",
        activation="gelu",
        normalise="imagenet",
        precision="fp32",
    )
    encoder = load_encoder(settings, dinov2, "cpu")
    inputs = torch.stack([encoder.prepare(picture(k)) for k in range(2)])
    for one in inputs:
        (tokens,) = session.run([tap], {"input_image": one[None].numpy()})
        ours = encoder.embed(one[None]).numpy()
        assert ours == pytest.approx(tokens[:, 0], abs=2e-4)
    assert encoder.dimension == 384


def test_mobilenet_is_torchvisions() -> None:
    import torchvision

    assets = asset("mobilenet-v2")
    settings = Encoder(
        model="clipaffect-mobilenet-v2",
        asset="mobilenet-v2",
        activation="relu",
        normalise="imagenet",
        precision="fp32",
    )
    encoder = load_encoder(settings, assets, "cpu")
    theirs = torchvision.models.mobilenet_v2().eval()
    state = torch.load(assets / "mobilenet-v2/encoder.pth", weights_only=True)
    theirs.load_state_dict(state, strict=True)
    inputs = torch.stack([encoder.prepare(picture(k)) for k in range(2)])
    with torch.inference_mode():
        expected = theirs.features(inputs).mean((2, 3))
    assert encoder.embed(inputs) == pytest.approx(expected.numpy(), abs=1e-5)
    assert encoder.dimension == 1280


@dataclass(frozen=True)
class Clip:
    """A ViT in open_clip's format, as a user has it on disk, with random weights."""

    model: str
    path: Path
    state: dict[str, torch.Tensor]  # of its image tower


# ViT-L/14's tower with fewer and narrower layers: CLIP has heads of 64 and MLPs of four widths.
SMALL = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": 224, "layers": 3, "width": 128, "patch_size": 14},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module", params=["small", pytest.param("L", marks=pytest.mark.slow)])
def vit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A small one, and ViT-L/14."""
    folder, name = tmp_path_factory.mktemp("weights"), "ViT-L-14"
    if request.param == "small":
        name = "ViT-small-14"
        for suffix, quick in (("", False), ("-quickgelu", True)):
            card = folder / f"{name}{suffix}.json"
            card.write_text(json.dumps(SMALL | {"quick_gelu": quick}))
            open_clip().add_model_config(card)
    torch.manual_seed(0)
    state = open_clip().create_model(f"{name}-quickgelu", pretrained=None).state_dict()
    path = folder / "vit.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return Clip(name, path, {k: v for k, v in state.items() if k.startswith("visual.")})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


PARTS = (
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
)


def transformers_vision(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Hugging Face's CLIP vision model with open_clip's weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    width, projected = state["visual.proj"].shape
    layers = sum(name.endswith("ln_1.weight") for name in state)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        patch_size=14,
        image_size=224,
        projection_dim=projected,
        hidden_act="quick_gelu",
    )
    with torch.device("meta"):
        model = CLIPVisionModelWithProjection(config)
    names = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "pre_layrnorm.weight": "ln_pre.weight",
        "pre_layrnorm.bias": "ln_pre.bias",
        "post_layernorm.weight": "ln_post.weight",
        "post_layernorm.bias": "ln_post.bias",
    }
    for layer in range(layers):
        new, old = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            for a, b in PARTS:
                names[f"{new}{a}.{kind}"] = f"{old}{b}.{kind}"
    mapped = {f"vision_model.{a}": state[f"visual.{b}"] for a, b in names.items()}
    for layer in range(layers):
        for kind in ("weight", "bias"):
            joined = state[f"visual.transformer.resblocks.{layer}.attn.in_proj_{kind}"]
            for name, part in zip("qkv", joined.chunk(3), strict=True):
                key = f"vision_model.encoder.layers.{layer}.self_attn.{name}_proj.{kind}"
                mapped[key] = part
    mapped["visual_projection.weight"] = state["visual.proj"].T
    known = set(model.state_dict())
    if not known & set(mapped):  # newer releases drop the prefix
        mapped = {name.removeprefix("vision_model."): value for name, value in mapped.items()}
    missing, unexpected = model.load_state_dict(mapped, strict=False, assign=True)
    assert not unexpected
    assert all("position_ids" in name for name in missing)
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            module, _, leaf = name.rpartition(".")
            values = torch.arange(buffer.numel()).reshape(buffer.shape)
            model.get_submodule(module).register_buffer(leaf, values, persistent=False)
    return model.eval()


def test_local_weights_agree_with_transformers(vit: Clip) -> None:
    settings = Encoder(
        model=f"{vit.model}-quickgelu",
        file=str(vit.path),
        sha256=sha256(vit.path),
        activation="quickgelu",
        precision="fp32",
    )
    encoder = load_encoder(settings, NOWHERE, "cpu")
    inputs = torch.stack([encoder.prepare(picture(k)) for k in range(2)])
    ours = encoder.embed(inputs)
    with torch.inference_mode():
        theirs = transformers_vision(vit.state)(pixel_values=inputs).image_embeds
    assert ours.shape == (2, vit.state["visual.proj"].shape[1])
    scale = float(theirs.abs().mean())
    assert float((ours - theirs).abs().max()) < 1e-4 * scale + 1e-5


def test_plain_gelu_would_have_been_noticed(vit: Clip) -> None:
    settings = Encoder(
        model=vit.model, file=str(vit.path), sha256=sha256(vit.path), activation="quickgelu"
    )
    with pytest.raises(UserError, match=f"'{vit.model}' uses gelu") as caught:
        build_model(settings, NOWHERE)
    assert "quickgelu" in caught.value.fix


def test_a_file_that_is_not_the_pinned_one_is_refused(vit: Clip) -> None:
    settings = Encoder(
        model=f"{vit.model}-quickgelu", file=str(vit.path), sha256="0" * 64, activation="quickgelu"
    )
    with pytest.raises(UserError, match="the weights have sha256"):
        build_model(settings, NOWHERE)


@pytest.mark.parametrize(
    ("model", "runs"),
    [
        ("ViT-B-32", "gelu"),
        ("ViT-B-32-quickgelu", "quickgelu"),
        ("clipaffect-micro", "gelu"),
        ("clipaffect-dinov2-s14", "gelu"),
    ],
)
def test_which_activation_a_model_runs(model: str, runs: str) -> None:
    settings = Encoder(model=model, random=0, activation=runs)
    assert visual_activations(build_model(settings, NOWHERE).visual) == {runs}


@pytest.mark.parametrize("model", ["ViT-B-32", "ViT-B-32-quickgelu"])
def test_a_swapped_activation_is_the_other_models(model: str) -> None:
    other = {"ViT-B-32": "ViT-B-32-quickgelu", "ViT-B-32-quickgelu": "ViT-B-32"}[model]
    runs = {"ViT-B-32": "gelu", "ViT-B-32-quickgelu": "quickgelu"}
    swapped = Encoder(model=model, random=0, activation=runs[model], swap_activation=True)
    plain, right = (Encoder(model=m, random=0, activation=runs[m]) for m in (other, model))
    picture = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        found, expected, own = (
            build_model(settings, NOWHERE).visual.eval()(picture)
            for settings in (swapped, plain, right)
        )
    assert torch.equal(found, expected)
    assert not torch.equal(found, own)
    records = [encoder_record(s, NOWHERE, "cpu")["settings"] for s in (swapped, right)]
    assert records[0] == records[1] | {"swap_activation": True}


def test_a_tag_whose_weights_want_the_other_activation_is_refused() -> None:
    settings = Encoder(model="ViT-L-14", tag="openai", activation="gelu")
    with pytest.raises(UserError, match="'openai' were trained with quickgelu") as caught:
        build_model(settings, NOWHERE)
    assert "-quickgelu" in caught.value.fix


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "ViT-Z-9", "random": 0}, "has no model 'ViT-Z-9'"),
        ({"model": "ViT-B-32", "tag": "nobody"}, "has no weights 'nobody'"),
        (
            {"model": "ViT-B-32", "file": "nowhere.pt", "sha256": "0"},
            "the weights file does not exist",
        ),
    ],
)
def test_a_wrong_encoder_is_named(values: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_model(Encoder(activation="gelu", **values), NOWHERE)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    import pickle

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"state_dict": Trap()}))
    settings = Encoder(
        model="clipaffect-micro", file=str(path), sha256=sha256(path), activation="gelu"
    )
    with pytest.raises(UserError, match="not weights of clipaffect-micro"):
        build_model(settings, NOWHERE)
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"visual.proj": torch.zeros(3, 3)}, path)
    settings = Encoder(
        model="clipaffect-micro", file=str(path), sha256=sha256(path), activation="gelu"
    )
    with pytest.raises(UserError, match="not weights of clipaffect-micro"):
        build_model(settings, NOWHERE)


def test_preprocessing_is_open_clips_own() -> None:
    settings = Encoder(model="ViT-B-32", random=0, activation="gelu")
    encoder = load_encoder(settings, NOWHERE, "cpu")
    _, _, theirs = open_clip().create_model_and_transforms("ViT-B-32", pretrained=None)
    from PIL import Image

    crop = picture(3, side=112)
    assert torch.equal(encoder.prepare(crop), theirs(Image.fromarray(crop)))


def test_clips_normalisation_is_open_clips() -> None:
    package = open_clip()
    stated = (package.OPENAI_DATASET_MEAN, package.OPENAI_DATASET_STD)
    assert stated == NORMALISATIONS["clip"]


def test_random_weights_are_those_of_the_seed() -> None:
    settings = Encoder(model="clipaffect-micro", random=5, activation="gelu", precision="fp32")
    first, again = (load_encoder(settings, NOWHERE, "cpu") for _ in range(2))
    other = load_encoder(settings.model_copy(update={"random": 6}), NOWHERE, "cpu")
    x = first.prepare(picture())[None]
    assert torch.equal(first.embed(x), again.embed(x))
    assert not torch.equal(first.embed(x), other.embed(x))


def test_pixels_are_the_shrunk_grey_crop() -> None:
    encoder = load_encoder(Encoder(kind="pixels", side=8), NOWHERE, "cpu")
    crop = picture()
    grey = crop[::28, ::28].astype(float) @ [0.299, 0.587, 0.114]
    feature = encoder.embed(encoder.prepare(crop)[None])[0].reshape(8, 8) * 255
    assert feature.numpy() == pytest.approx(grey, abs=1)


def test_fp16_on_a_cpu_is_float32_on_rounded_weights() -> None:
    settings = Encoder(
        model="clipaffect-micro", random=0, activation="gelu", normalise="clip", precision="fp16"
    )
    full = settings.model_copy(update={"precision": "fp32"})
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    half, exact = (load_encoder(s, Path(), "cpu") for s in (settings, full))
    size = half.prepare(np.zeros((64, 64, 3), np.uint8)).shape[-1]
    picture = torch.nn.functional.interpolate(picture, size)
    visual = build_model(full, Path()).visual.eval()
    for parameter in [*visual.parameters(), *visual.buffers()]:
        parameter.data = parameter.data.half().float()
    with torch.inference_mode():
        expected = visual(picture)
    assert torch.equal(half.embed(picture), expected)
    assert not torch.equal(half.embed(picture), exact.embed(picture))
    assert encoder_record(settings, Path(), "cpu")["arithmetic"] == "torch.float32"
    assert "arithmetic" not in encoder_record(settings, Path(), "cuda")


def test_features_of_another_precision_have_another_key() -> None:
    settings = Encoder(model="clipaffect-micro", random=0, activation="gelu", precision="fp32")
    for device in ("cpu", "cuda"):
        keys = [
            {k: v for k, v in record.items() if k != "arithmetic"}
            for precision in ("fp32", "bf16", "fp16")
            for record in [
                encoder_record(
                    settings.model_copy(update={"precision": precision}), NOWHERE, device
                )
            ]
        ]
        assert keys[0] != keys[1] != keys[2] != keys[0]
