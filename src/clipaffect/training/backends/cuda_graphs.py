"""Replay a stack's step from captured CUDA graphs, without the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipaffect.training.backends.stacked_step import StackedStep

Step = Callable[[Tensor, Tensor, Tensor | None, bool], Tensor]


def graphed(stack: StackedStep) -> Step:
    """``stack.step`` replayed from CUDA graphs, one for each batch shape and probing.

    One graph runs at a time, so they share their memory.
    """
    graphs: dict[tuple[torch.Size, bool], tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
    pool = torch.cuda.graph_pool_handle()
    stream = torch.cuda.Stream()  # of the stack's GPU; torch's own is that of the process's first

    def step(features: Tensor, labels: Tensor, masks: Tensor | None, probe: bool) -> Tensor:
        given = [value for value in (features, labels, masks) if value is not None]
        key = (features.shape, probe)
        if key not in graphs:
            graphs[key] = _capture(stack, given, probe, pool, stream)
        graph, inputs, record = graphs[key]
        for place, value in zip(inputs, given, strict=True):
            place.copy_(value)
        graph.replay()
        return record.clone()  # the next replay overwrites it

    return step


def _capture(
    stack: StackedStep, given: list[Tensor], probe: bool, pool: Any, side: torch.cuda.Stream
) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
    """Capture one step, and undo the warm-up that the capture needs."""
    before = {name: value.clone() for name, value in stack.state().items()}
    inputs = [value.clone() for value in given]
    x, y, *rest = inputs
    masks = rest[0] if rest else None
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            stack.step(x, y, masks, probe)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=side):
        record = stack.step(x, y, masks, probe)
    stack.load_state(before)
    return graph, inputs, record
