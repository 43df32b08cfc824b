"""The rules of a GPU without a GPU, kept by the CPU.

The device has a memory of its own: its tensors do not mix with those of the host. While a graph is
captured nothing may pass between the two, neither a copy nor a result that the host would wait for;
and a graph that is replayed repeats the captured operations on the captured memory, whatever Python
knows by then: a number that was read once stays as it was. The arithmetic is the CPU's to the bit.

What it does not show: the kernels' own arithmetic, their speed, memory that a graph uses twice, and
in-place writes, which happen at the capture too.
The device goes by the name ``meta``, which torch knows everywhere and needs no hardware for.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

DEVICE = "meta"
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
# Of these the host waits for the result, or for its size.
WAITED_FOR = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.allclose.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
INDEXED = {aten.index.Tensor, aten.index_put_.default}


class Refused(Exception):
    """What a GPU would have refused."""


class There(Tensor):
    """A tensor of the device; ``data_here`` is what it holds."""

    data_here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        made.data_here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise Refused(f"{func} where the device is not pretended")


class PretendedGpu(TorchDispatchMode):
    """Within its block there is such a device, and ``torch.cuda``'s graphs are captured on it.

    Attributes:
        crossings: how often something has passed between host and device.
        graph: what is being captured.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.crossings = 0
        self.graph: Graph | None = None
        self._from_numbers = _FromNumbers(self)
        stream = SimpleNamespace(wait_stream=lambda other: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", self._capture)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)

    def __enter__(self) -> PretendedGpu:
        self._from_numbers.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._from_numbers.__exit__(*error)

    @contextmanager
    def _capture(self, graph: Graph, pool: None = None, stream: Any = None) -> Iterator[None]:
        self.graph = graph
        try:
            yield
        finally:
            self.graph = None
        graph.forget()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        there = [isinstance(t, There) for t in tensors]
        if kwargs.get("device") is not None:
            on_device = kwargs["device"] == torch.device(DEVICE)
            kwargs["device"] = torch.device("cpu")
        else:
            on_device = any(there)
        self._check(func, args, tensors, there, on_device)
        args, kwargs = tree_map(_here, (args, kwargs))
        result = func(*args, **kwargs)
        if not on_device:
            return result
        if self.graph is not None:
            self.graph.calls.append((func, args, kwargs, result))
        return tree_map(lambda v: There(v) if isinstance(v, Tensor) else v, result)

    def _check(
        self, func: Any, args: Any, tensors: list[Tensor], there: list[bool], on_device: bool
    ) -> None:
        if not on_device and not any(there):
            return
        copied = func in COPIES or not any(there)
        strangers = [t for t, own in zip(tensors, there, strict=True) if not own]
        if not copied and any(t.dim() for t in strangers):
            raise Refused(f"{func}: tensors of the host and of the device")
        by_mask = func in INDEXED and any(i is not None and i.dtype == torch.bool for i in args[1])
        crosses = not on_device or func in WAITED_FOR or by_mask or bool(strangers)
        self.crossings += crosses
        if crosses and self.graph is not None:
            raise Refused(f"{func}: host and device meet while a graph is captured")


class Graph:
    """``torch.cuda.CUDAGraph``: the captured operations, again, on the captured memory."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def forget(self) -> None:
        """What a captured operation gives is there once the graph is replayed, not before."""
        for func, _, _, result in self.calls:
            for value in tree_flatten(result)[0]:
                made = not func._schema.is_mutable and not _is_view(func)
                if made and isinstance(value, Tensor) and value.is_floating_point():
                    value.fill_(torch.nan)

    def replay(self) -> None:
        """Repeat them in order; a view stays a view."""
        for func, args, kwargs, before in self.calls:
            if _is_view(func):
                continue
            after = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(tree_flatten(before)[0], tree_flatten(after)[0], strict=True):
                    if isinstance(old, Tensor):
                        old.copy_(new)


class _FromNumbers(TorchFunctionMode):
    """``torch.tensor`` would leave a ``meta`` tensor empty and tells no dispatch mode."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.tensor, torch.as_tensor) or str(kwargs.get("device")) != DEVICE:
            return func(*args, **kwargs)
        return func(*args, **kwargs | {"device": "cpu"}).to(DEVICE)


def _is_view(func: Any) -> bool:
    returned = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


def _here(value: Any) -> Any:
    return value.data_here if isinstance(value, There) else value
