"""Read the weights in a TorchScript archive without running or unpickling anything in it.

OpenAI publishes CLIP's weights in this form. The archive is a zip file: ``data.pkl`` describes the
module tree, and ``data/0``, ``data/1``, ... hold the numbers. Here the pickle's instructions are
read as data (``pickletools`` only parses them): objects become nested dictionaries, and a class or
function is nothing but its name. The code in the archive is not looked at.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clipaffect.core.errors import UserError

TYPES = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
DEEPEST = 64  # modules within modules
MOST = 100_000  # objects; one that others refer to counts each time


@dataclass(frozen=True)
class _Name:
    """A class or a function that the pickle names."""

    text: str


@dataclass
class _Object:
    """An object that the pickle would create: its class, its arguments and its attributes."""

    name: str
    arguments: Any
    attributes: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Storage:
    """A tensor's numbers: their type, the name of their entry, and how many there are."""

    kind: str
    entry: str
    count: int


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a TorchScript archive, by name.

    Raises:
        UserError: the archive holds something else than a tree of modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            (pickled,) = [name for name in names if name.endswith("/data.pkl")]
            folder = pickled.removesuffix("data.pkl")
            if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
                raise ValueError("its numbers are big-endian")
            root = _Reader().read(archive.read(pickled))
            found = {}
            for number, (name, value) in enumerate(_leaves(root, "", 0)):
                if number == MOST:
                    raise ValueError(f"it has more than {MOST} values")
                if value.name.startswith("torch._utils _rebuild_"):
                    found[name] = _tensor(value, archive, f"{folder}data/", name)
            return found
    except (
        *(ValueError, LookupError, AttributeError, TypeError),
        *(EOFError, zlib.error, zipfile.BadZipFile),
    ) as error:
        raise UserError(
            f"the TorchScript archive cannot be read as a tree of modules: {error}",
            where=path,
            fix="fetch the file again; if it is intact, save its state dict as safetensors in an "
            "environment of its own: docs/encoders.md has the command",
        ) from None


class _Reader:
    """Interprets the few pickle instructions that TorchScript writes."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def read(self, pickled: bytes) -> Any:
        for code, argument, _ in pickletools.genops(pickled):
            if code.name == "STOP":
                return self.stack.pop()
            if code.name in VALUES:
                self.stack.append(VALUES[code.name](argument))
            elif code.name in INSTRUCTIONS:
                INSTRUCTIONS[code.name](self, argument)
            else:
                raise ValueError(f"its pickle has the unexpected instruction {code.name}")
        raise ValueError("its pickle has no end")

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        found, self.stack = self.stack, self.marks.pop()
        return found

    def tuple_of_marked(self, _: Any) -> None:
        found = tuple(self.marked())
        self.stack.append(found)

    def tuple_of(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def set_items(self, _: Any) -> None:
        pairs = self.marked()
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        self.stack[-1].append(value)

    def extend(self, _: Any) -> None:
        values = self.marked()
        self.stack[-1].extend(values)

    def create(self, _: Any) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _Object(self.stack[-1].text, arguments)

    def build(self, _: Any) -> None:
        attributes = self.stack.pop()
        self.stack[-1].attributes.update(attributes)

    def storage(self, _: Any) -> None:
        _, kind, entry, _, count = self.stack.pop()
        self.stack.append(_Storage(kind.text, entry, count))

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        self.stack.append(self.memo[place])


VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), lambda value: value),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), lambda value: value),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "GLOBAL": _Name,
}
INSTRUCTIONS: dict[str, Callable[[_Reader, Any], None]] = {
    "PROTO": lambda *_: None,
    "MARK": _Reader.mark,
    "TUPLE": _Reader.tuple_of_marked,
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "SETITEMS": _Reader.set_items,
    "APPEND": _Reader.append,
    "APPENDS": _Reader.extend,
    "REDUCE": _Reader.create,
    "NEWOBJ": _Reader.create,
    "BUILD": _Reader.build,
    "BINPERSID": _Reader.storage,
    "BINPUT": _Reader.remember,
    "LONG_BINPUT": _Reader.remember,
    "BINGET": _Reader.recall,
    "LONG_BINGET": _Reader.recall,
}


def _leaves(value: Any, name: str, depth: int) -> Iterator[tuple[str, _Object]]:
    """Every object below a module and its name, the module itself first."""
    if depth > DEEPEST:
        raise ValueError(f"its modules are nested more than {DEEPEST} deep")
    if not isinstance(value, _Object):
        return
    yield name, value
    for key, own in value.attributes.items():
        yield from _leaves(own, f"{name}.{key}" if name else str(key), depth + 1)


def _tensor(made: _Object, archive: zipfile.ZipFile, folder: str, name: str) -> torch.Tensor:
    if made.name == "torch._utils _rebuild_parameter":
        made = made.arguments[0]
    storage, offset, size, stride = made.arguments[:4]
    if storage.kind not in TYPES:
        raise ValueError(f"the tensor {name} has the unknown type {storage.kind}")
    kind, entry = TYPES[storage.kind], f"{folder}{storage.entry}"
    stored = archive.getinfo(entry).file_size
    if stored != storage.count * kind.itemsize or math.prod(size) > storage.count:
        raise ValueError(f"the tensor {name} has {stored} bytes, not those of its shape")
    numbers = bytearray(archive.read(entry))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride), default=0) < 0 or last >= max(storage.count, 1):
        raise ValueError(f"the tensor {name} lies outside of its numbers")
    if not numbers:
        return torch.empty(size, dtype=kind)
    flat = torch.frombuffer(numbers, dtype=kind)
    return flat.as_strided(size, stride, offset).contiguous()
