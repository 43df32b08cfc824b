"""Weights of a tag: fetched from a hub (here on loopback), recorded, checked, used offline."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save

from clipaffect.config.encoders import Encoder
from clipaffect.core.errors import UserError
from clipaffect.encoders.fetch_weights import checked_weights, fetched_weights
from clipaffect.encoders.registry import encoder_record, load_encoder
from clipaffect.encoders.untrained import create_untrained, open_clip

# A tag of this test for the smallest model: what open_clip's own tags are for the large ones.
CARD = {
    "hf_hub": "somebody/micro/",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
FETCH = """
import json, sys
from clipaffect.encoders.untrained import open_clip
open_clip().pretrained._PRETRAINED["clipaffect-micro"] = {"mine": json.loads(sys.argv.pop(1))}
from clipaffect.cli.main import main
main()
"""
SETTINGS = Encoder(model="clipaffect-micro", tag="mine", activation="gelu", precision="fp32")


@pytest.fixture(scope="module")
def weights() -> bytes:
    torch.manual_seed(7)
    state = create_untrained("clipaffect-micro").state_dict()
    return save({name: value.contiguous() for name, value in state.items()})


@pytest.fixture(scope="module")
def hub(weights: bytes) -> Iterator[str]:
    """A server that answers as the hub does for one file; yields its address."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            found = self.path == "/somebody/micro/resolve/main/open_clip_model.safetensors"
            self.send_response(200 if found else 404)
            if found:
                self.send_header("X-Repo-Commit", "1" * 40)
                self.send_header("ETag", f'"{hashlib.sha256(weights).hexdigest()}"')
                self.send_header("Content-Length", str(len(weights)))
            self.end_headers()
            if found and body:
                self.wfile.write(weights)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fetch(folder: Path, address: str, script: str = FETCH) -> subprocess.CompletedProcess:
    """Fetch into the folder as the workflow does: called in it, with a relative path."""
    command = [sys.executable, "-c", script, json.dumps(CARD)]
    own = {
        "HF_ENDPOINT": address,
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "1",
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        [*command, "rule", "fetch-weights", "clipaffect-micro", "mine", "--assets", "."],
        capture_output=True,
        text=True,
        env=os.environ | own,
        cwd=folder,
        check=False,
    )


@pytest.fixture(scope="module")
def fetched_once(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fetched")
    done = fetch(folder, hub)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def fetched(fetched_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(open_clip().pretrained._PRETRAINED, "clipaffect-micro", {"mine": CARD})
    return shutil.copytree(fetched_once, tmp_path / "fetched")


def test_fetched_weights_are_recorded_and_loaded(fetched: Path, weights: bytes) -> None:
    folder = fetched / "weights/clipaffect-micro--mine"
    listing = json.loads((folder / "manifest.json").read_text())
    assert listing["sha256"] == hashlib.sha256(weights).hexdigest()
    assert listing["from"] == "somebody/micro/"
    assert (folder / listing["file"]).read_bytes() == weights
    encoder = load_encoder(SETTINGS, fetched, "cpu")
    torch.manual_seed(7)
    visual = create_untrained("clipaffect-micro").visual.eval()
    picture = np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8)
    # Prepared as the tag's card says: squashed, not cut; its own mean and deviation.
    card = open_clip().transform.PreprocessCfg(
        size=64, **{k: v for k, v in CARD.items() if k != "hf_hub"}
    )
    from PIL import Image

    theirs = open_clip().transform.image_transform_v2(card, is_train=False)(
        Image.fromarray(picture)
    )
    assert torch.equal(encoder.prepare(picture), theirs)
    with torch.inference_mode():
        assert torch.equal(encoder.embed(theirs[None]), visual(theirs[None]))


def test_features_are_known_by_the_weights_behind_the_tag(fetched: Path) -> None:
    manifest = fetched / "weights/clipaffect-micro--mine/manifest.json"
    before = encoder_record(SETTINGS, fetched, "cpu")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"sha256": "0" * 64}))
    assert encoder_record(SETTINGS, fetched, "cpu") != before
    with pytest.raises(UserError, match="changed or removed after they were fetched"):
        load_encoder(SETTINGS, fetched, "cpu")


def test_a_pinned_tag_is_held_to_its_sha256(fetched: Path, weights: bytes) -> None:
    right = SETTINGS.model_copy(update={"sha256": hashlib.sha256(weights).hexdigest()})
    assert checked_weights(right, fetched).is_file()
    with pytest.raises(UserError, match="the weights have sha256"):
        fetched_weights(SETTINGS.model_copy(update={"sha256": "0" * 64}), fetched)


def test_a_pin_changes_no_feature(fetched: Path, weights: bytes) -> None:
    pinned = SETTINGS.model_copy(update={"sha256": hashlib.sha256(weights).hexdigest()})
    assert encoder_record(pinned, fetched, "cpu") == encoder_record(SETTINGS, fetched, "cpu")


def test_a_manifest_cannot_point_outside(fetched: Path) -> None:
    manifest = fetched / "weights/clipaffect-micro--mine/manifest.json"
    manifest.write_text(json.dumps({"file": "../../secret", "sha256": "0" * 64}))
    with pytest.raises(UserError, match="outside its folder"):
        fetched_weights(SETTINGS, fetched)


def test_without_a_hub_the_message_says_what_to_do(tmp_path: Path) -> None:
    # The hub's library tries again and again, and sleeps between.
    hurried = f"import time; time.sleep = lambda seconds: None\n{FETCH}"
    done = fetch(tmp_path, "http://127.0.0.1:9", hurried)
    assert done.returncode == 2
    words = " ".join(done.stderr.replace("│", " ").split())
    assert "could not be fetched" in words
    assert "'file' and 'sha256' instead of 'tag'" in words
    with pytest.raises(UserError, match="have not been fetched") as caught:
        fetched_weights(SETTINGS, tmp_path)
    assert "fetch_weights" in caught.value.fix
