"""The exception for all user errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """An error that the user can fix: shown as a message, never as a traceback.

    Args:
        what: what is wrong, with the value.
        where: file, file and line, or configuration key.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, where: str | Path, fix: str) -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, str(where), fix

    def __reduce__(self) -> tuple[Callable[[str, str, str], UserError], tuple[str, str, str]]:
        return _again, (self.what, self.where, self.fix)  # from one process to another

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  fix:   {self.fix}"


def _again(what: str, where: str, fix: str) -> UserError:
    return UserError(what, where=where, fix=fix)


def raise_all(problems: list[UserError]) -> None:
    """Raise one error that lists every problem (the first ten in full); do nothing without any."""
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    lines = [f"- {problem.what} ({problem.where}); {problem.fix}" for problem in problems[:10]]
    if len(problems) > 10:
        lines.append(f"- and {len(problems) - 10} more")
    raise UserError(
        f"{len(problems)} problems were found:\n" + "\n".join(lines),
        where="the files listed above",
        fix="fix each of them and run the same command again",
    )


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, or its type if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]
