"""Call Snakemake, and free the lock that a killed run left behind.

Snakemake cannot tell a live lock from a dead one. The launcher records who holds it: host, process
and that process's start time; it unlocks only when exactly that process is gone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from clipaffect.errors import UserError

OWNER = Path(".snakemake/clipaffect-owner.json")
LOCKS = Path(".snakemake/locks")


def _me() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def owner_is_dead(owner: dict[str, Any]) -> bool:
    """Whether the recorded process is gone; one on another host counts as alive."""
    if owner["host"] != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(owner["pid"]).create_time() != owner["started"])
    except psutil.NoSuchProcess:
        return True


def _locked() -> bool:
    return LOCKS.is_dir() and any(LOCKS.iterdir())


def _snakemake(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments]


def launch(arguments: list[str]) -> int:
    """Run Snakemake in this folder with ``arguments``; returns its exit code.

    Raises:
        UserError: another run holds the folder, or its owner is unknown.
    """
    if _locked():
        owner = json.loads(OWNER.read_text()) if OWNER.is_file() else None
        if owner is None or not owner_is_dead(owner):
            who = f"process {owner['pid']} on {owner['host']}" if owner else "an unknown process"
            raise UserError(
                f"another run holds this folder: {who}",
                where=LOCKS,
                mend="wait for it; if you are sure that it is gone, call 'snakemake --unlock'",
            )
        subprocess.run(_snakemake(["--unlock", "--quiet", "all"]), check=False)
    OWNER.parent.mkdir(exist_ok=True)
    OWNER.write_text(json.dumps(_me()))
    child = subprocess.Popen(_snakemake(arguments))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: os.kill(child.pid, received))
    code = child.wait()
    OWNER.unlink(missing_ok=True)
    return code
