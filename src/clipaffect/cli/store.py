"""Commands for the store, ``clipaffect store``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipaffect.core.progress import Progress
from clipaffect.core.store import Store

store_app = typer.Typer(no_args_is_help=True, help="Manage the store (a cache).")
Root = Annotated[Path, typer.Option("--path", help="The folder of the store.")]


@store_app.command()
def gc(
    path: Root = Path("store"),
    days: Annotated[
        float, typer.Option(min=0, help="Keep entries used within this many days.")
    ] = 30.0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the entries instead of only listing them.")
    ] = False,
) -> None:
    """List (or delete) cache entries that no current stage would use, with the reason."""
    from clipaffect.config.stage_keys import VERSIONS

    total = 0
    store = Store(path)
    for entry in store.unused(VERSIONS, days):
        print(f"{entry.path}  {entry.bytes / 1e6:.1f} MB  {entry.reason}")
        total += entry.bytes
        if delete:
            store.delete(entry.path)
    print(f"{'deleted' if delete else 'would delete'} {total / 1e6:.1f} MB")


@store_app.command()
def verify(path: Root = Path("store")) -> None:
    """Compare every file of the store with its sha256; set damaged entries aside.

    Exits with status 1 if an entry was damaged. The next run makes it again.
    """
    store, damaged = Store(path), 0
    entries = list(store.entries())
    with Progress("entries", len(entries)) as progress:
        for entry in entries:
            problem = store.verify(entry)
            if problem is not None:
                damaged += 1
                print(f"damaged: {entry}: {problem}")
            progress.advance()
    print(f"{len(entries) - damaged:,} entries are whole, {damaged:,} damaged")
    if damaged:
        raise typer.Exit(1)
