"""Export the heads, alone and together with the encoder, as ONNX files for ONNX Runtime.

``onnx/head_<task>.onnx`` maps features to predictions, and ``onnx/model.onnx`` prepared crops to
the predictions of all tasks; the batch axis is free. Predictions are the mean of the seeds'
probabilities under the chosen temperature, and the decision under the chosen thresholds or
adjustment. Steps that use other frames (smoothing) are not in the graph. All arithmetic is float32,
even if the encoder of the bundle runs in bf16 or fp16: the files agree with the bundle up to the
rounding of the encoder.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from clipaffect.bundle.format import Bundle, TaskModel, Thresholds
from clipaffect.bundle.load import OpenBundle, load_heads
from clipaffect.config.encoders import Encoder
from clipaffect.core.errors import UserError
from clipaffect.core.files import write_text
from clipaffect.encoders.feature_record import DTYPES
from clipaffect.encoders.kinds.open_clip import build_tower, input_description
from clipaffect.encoders.registry import kind_of
from clipaffect.training.mlp_head import Head

OPSET, IR = 20, 10
TINY = 1e-7  # keeps logarithms finite, in float32
SCRIPT = "run_onnx.py"
ORDER = ("average_seeds", "smooth", "temperature", "adjust")


def write_onnx(bundle: Bundle, folder: Path, assets: Path, encoders: Mapping[str, Encoder]) -> None:
    """Write the ONNX files of a bundle that lies in ``folder``, its ``files`` not yet complete.

    Args:
        bundle: what it says.
        folder: where its heads lie.
        assets: folder of fetched assets.
        encoders: by name, as they can be loaded here.

    Raises:
        UserError: a task's heads are on several encoders, or its steps are in another order.
    """
    target = folder / "onnx"
    target.mkdir(exist_ok=True)
    for name, task in bundle.tasks.items():
        if len(task.heads) > 1 or len(bundle.features[task.heads[0].features]) > 1:
            raise UserError(
                f"the predictions for {name} need several encoders, but an ONNX file holds one",
                where=f"run '{bundle.run}'",
                fix="omit --onnx, or export a run without average_encoders and join",
            )
        steps = [step.step for step in task.steps if step.step != "average_encoders"]
        averaged = "average_seeds" in steps or len(task.heads[0].seeds) == 1
        if steps != [step for step in ORDER if step in steps] or not averaged:
            raise UserError(
                f"ONNX export cannot apply the steps of {name} in this order: {', '.join(steps)}",
                where=f"run '{bundle.run}', postprocess.steps",
                fix=f"omit --onnx, or use the order {', '.join(ORDER)}",
            )
    opened = OpenBundle(folder, bundle, "", dict(bundle.encoders))
    graphs = {name: head_graph(opened, name) for name in bundle.tasks}
    for name, graph in graphs.items():
        onnx.save(_model(graph), target / f"head_{name}.onnx")
    (encoder,) = {task.heads[0].features: None for task in bundle.tasks.values()}
    settings = encoders[bundle.features[encoder][0]]
    if kind_of(settings).IS_NETWORK:
        whole = _encoder_model(settings, assets)
        for graph in graphs.values():
            joined = _features_called(graph, f"{graph.name}_in")
            whole = onnx.compose.merge_models(
                whole,
                _model(joined),
                io_map=[("features", f"{graph.name}_in")],
                outputs=[*(o.name for o in whole.graph.output), *(o.name for o in graph.output)],
            )
        onnx.checker.check_model(whole)
        onnx.save(whole, target / "model.onnx")
    script = resources.files(__package__).joinpath(SCRIPT).read_text(encoding="utf-8")
    write_text(target / "run.py", script)


def head_graph(opened: OpenBundle, name: str) -> onnx.GraphProto:
    """The graph of a task: ``features`` (N, d) to ``<task>_probability`` and ``<task>_decision``.

    The probability is (N, targets) float32; the decision (N,) int64, a class's number, or
    (N, targets) bool.
    """
    task = opened.bundle.tasks[name]
    own = task.heads[0]
    heads = load_heads(opened, name)[own.features]
    build = _Builder(name)
    scores = [build.head(head, task.multilabel) for _, head in sorted(heads.items())]
    mean = build.node("Mean", scores) if len(scores) > 1 else scores[0]
    probability, decision = build.answers(mean, task)
    kind, shape = TensorProto.INT64, list[str | int | None](["N"])
    if task.multilabel:
        kind, shape = TensorProto.BOOL, ["N", len(task.targets)]
    build.node("Identity", [probability], f"{name}_probability")
    build.node("Identity", [decision], f"{name}_decision")
    return helper.make_graph(
        build.nodes,
        name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", own.inputs])],
        [
            helper.make_tensor_value_info(
                f"{name}_probability", TensorProto.FLOAT, ["N", len(task.targets)]
            ),
            helper.make_tensor_value_info(f"{name}_decision", kind, shape),
        ],
        build.constants,
    )


class _Builder:
    """The nodes and constants of one graph, with unique names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{self.name}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: Any) -> str:
        name = f"{self.name}_c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def head(self, head: Head, multilabel: bool) -> str:
        """Probabilities of one head: its folded products (``Head.folded``)."""
        x = "features"
        layers = head.folded()
        for number, (weight, bias) in enumerate(layers):
            inputs = [x, self.constant(weight.numpy()), self.constant(bias.numpy())]
            x = self.node("Gemm", inputs, transB=1)
            if number < len(layers) - 1:
                x = self.node("Relu", [x])
        return self.node("Sigmoid", [x]) if multilabel else self.node("Softmax", [x], axis=-1)

    def logits(self, scores: str, multilabel: bool) -> str:
        low, high = self.constant(TINY), self.constant(1 - TINY)
        scores = self.node("Clip", [scores, low, high])
        log = self.node("Log", [scores])
        if not multilabel:
            return log
        rest = self.node("Log", [self.node("Sub", [self.constant(1.0), scores])])
        return self.node("Sub", [log, rest])

    def answers(self, scores: str, task: TaskModel) -> tuple[str, str]:
        """Probability and decision from the steps that use a single frame."""
        temperature = [s.choice.temperature for s in task.steps if hasattr(s.choice, "temperature")]
        if temperature:
            logits = self.logits(scores, task.multilabel)
            logits = self.node("Div", [logits, self.constant(temperature[0])])
            scores = (
                self.node("Sigmoid", [logits])
                if task.multilabel
                else self.node("Softmax", [logits], axis=-1)
            )
        adjusted = [s.choice for s in task.steps if s.step == "adjust"]
        if task.multilabel:
            limits: Any = [0.5] * len(task.targets)
            if adjusted and isinstance(adjusted[0], Thresholds):
                limits = adjusted[0].thresholds
            return scores, self.node("GreaterOrEqual", [scores, self.constant(limits)])
        shown = scores
        if adjusted and not isinstance(adjusted[0], Thresholds):
            choice: Any = adjusted[0]
            shift = self.constant(choice.tau * np.log(choice.prior))
            shown = self.node("Sub", [self.logits(scores, False), shift])
        return scores, self.node("ArgMax", [shown], axis=-1, keepdims=0)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    made.producer_name = "clipaffect"
    return made


def _features_called(graph: onnx.GraphProto, name: str) -> onnx.GraphProto:
    """A copy of a head's graph with its input renamed."""
    copied = onnx.GraphProto()
    copied.CopyFrom(graph)
    copied.input[0].name = name
    for node in copied.node:
        node.input[:] = [name if own == "features" else own for own in node.input]
    return copied


def _encoder_model(settings: Encoder, assets: Path) -> onnx.ModelProto:
    """The image tower: ``image`` (N, 3, H, W) to ``features`` (N, d), float32.

    Its weights are those that the bundle's encoder runs on: rounded to the stated precision.
    """
    visual = build_tower(settings, assets).eval().requires_grad_(False)
    visual = visual.to(DTYPES[settings.precision]).float()
    height, width = input_description(settings)["size"]
    example = torch.zeros(2, 3, height, width)
    loud = logging.getLogger("torch.onnx")
    level = loud.level
    loud.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own deprecated parts
            program = torch.onnx.export(
                visual,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
            )
    finally:
        loud.setLevel(level)
    if program is None:
        raise RuntimeError("torch did not export a model")
    made: onnx.ModelProto = program.model_proto
    made.ir_version = IR
    made.producer_name, made.producer_version = "clipaffect", ""
    made.graph.name = "encoder"
    # torch notes where in which file each node came from: paths of this machine.
    parts = [made.graph.node, made.graph.value_info, made.graph.initializer, made.graph.input]
    for noted in [made, made.graph, made.graph.output[0], *(one for part in parts for one in part)]:
        noted.doc_string = ""
        del noted.metadata_props[:]
    return made
