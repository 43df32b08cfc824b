"""Named tensors in safetensors files, with a checksum of each tensor."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from clipaffect.core.files import Damaged, reading, whole_file

CHECKSUMS = "checksums"  # metadata of the file: JSON, CRC-32 by tensor


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().reshape(-1).view(uint8).numpy().data)


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors atomically.

    ``safetensors.torch.save_file`` would give the file mode 0600, whatever the umask says.

    Args:
        path: of the file.
        tensors: on the CPU.
        metadata: texts. With any, the bytes of the file depend on the random order in which
            safetensors writes them and the checksums.
    """
    checksums = json.dumps({name: _checksum(tensors[name]) for name in sorted(tensors)})
    with whole_file(path) as beside:
        beside.write_bytes(save(tensors, {CHECKSUMS: checksums} | (metadata or {})))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with reading(path), safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise Damaged(path, error) from None


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under the rest of their names.

    Raises:
        Damaged: a tensor differs from what was written. Files of other programs, and of earlier
            versions, have no checksums.
    """
    with _opened(path) as file:
        checksums = json.loads((file.metadata() or {}).get(CHECKSUMS, "{}"))
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        if name in checksums and _checksum(tensor) != checksums[name]:
            raise Damaged(path, f"the checksum of {name} is wrong")
    return under(tensors, prefix)


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in a file."""
    with _opened(path) as file:
        return list(file.keys())


def read_metadata(path: Path) -> dict[str, str]:
    """The texts of a file."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, with the prefix removed."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
