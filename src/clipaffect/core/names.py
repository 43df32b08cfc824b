"""File names as text: every name that a file system accepts can stand in tables and messages."""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

SEPARATORS = "\u2028\u2029"  # of lines and of paragraphs
URI = "file:"  # begins a path that is not text
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
LONGEST = 255  # bytes of one name in common file systems


def _is_control(character: str) -> bool:
    """Whether a character would break a line or steer a terminal.

    By its code: what Python calls printable depends on the Unicode version that it knows.
    """
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0 or character in SEPARATORS


def has_control(name: str) -> bool:
    """Whether a name contains control characters or line separators."""
    return any(map(_is_control, name))


def shown_name(name: str) -> str:
    """A name with control characters and bytes that are not UTF-8 written as ``\\n``, ``\\xff``."""
    parts = []
    for character in name:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (PEP 383)
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif _is_control(character):
            short = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
            parts.append(ESCAPES.get(character, short))
        else:
            parts.append(character)
    return "".join(parts)


def composed(name: str) -> str:
    """A name as tables show it: see ``shown_name``; accents as one character (NFC).

    macOS takes letters and accents apart (NFD), so one name has two spellings.
    """
    return unicodedata.normalize("NFC", shown_name(name))


def path_text(path: Path) -> str:
    """A path as text for a table; ``path_of`` turns it back."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return URI + quote_from_bytes(os.fsencode(path))
    return str(path)


def path_of(text: str) -> Path:
    """The path that ``path_text`` wrote."""
    if text.startswith(URI):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(URI))))
    return Path(text)


def existing(root: Path, name: str) -> Path | None:
    """The file of a relative name below a folder, also in the other spelling of its accents.

    None if there is none.
    """
    try:
        if (root / name).is_file():
            return root / name
        here = root
        for part in name.split("/"):
            here = _respelled(here, part)
        return here if here.is_file() else None
    except OSError:  # no such folder, or a name that no file system would take
        return None


def _respelled(folder: Path, name: str) -> Path:
    """The entry of a folder with a name in any spelling of its accents."""
    return folder / _entries(folder).get(composed(name), name)


@lru_cache(maxsize=64)
def _entries(folder: Path) -> dict[str, str]:
    """The names in a folder by their composed form."""
    return {composed(name): name for name in sorted(os.listdir(folder))}  # noqa: PTH208
