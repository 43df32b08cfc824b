"""Predict from face crops with ONNX Runtime: python run.py CROP ... (clipaffect is not needed).

Needs numpy, pillow and onnxruntime. A crop is a face cropped as preprocessing.json specifies, or
any close-up image of an upright face. The closer the crop is to the specification, the better the
predictions.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from PIL import Image

HERE = Path(__file__).parent


def prepare(picture: Image.Image, entry: dict) -> np.ndarray:
    """Convert a PIL image to the network's input (3, H, W), as specified in preprocessing.json."""
    picture = picture.convert("RGB")
    height, width = entry["size"]
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling[entry["interpolation"].upper()])
    values = np.asarray(picture, np.float32) / 255
    values = (values - np.float32(entry["mean"])) / np.float32(entry["std"])
    return values.transpose(2, 0, 1)


def main(paths: list[str]) -> None:
    """Print each crop's expression or units with probabilities, one JSON object per line."""
    stated = json.loads((HERE.parent / "preprocessing.json").read_text())["encoders"]
    (entry,) = stated.values()
    tasks = json.loads((HERE.parent / "bundle.json").read_text())["tasks"]
    session = onnxruntime.InferenceSession(HERE / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    for path in paths:
        image = prepare(Image.open(path), entry)
        answers = dict(zip(names, session.run(None, {"image": image[None]}), strict=True))
        line: dict = {"crop": path}
        for name, task in tasks.items():
            probability = answers[f"{name}_probability"][0].tolist()
            decision = answers[f"{name}_decision"][0]
            line[name] = {
                "probability": dict(zip(task["targets"], probability, strict=True)),
                "decision": [t for t, on in zip(task["targets"], decision, strict=True) if on]
                if task["multilabel"]
                else task["targets"][int(decision)],
            }
        print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
