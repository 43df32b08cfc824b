"""A Python that has imported everything: a process that forks itself for each command.

Most of what a small run costs is starting Python and importing torch, scikit-learn or Snakemake.
``python()`` is the path of a program that takes a module, code or a file as Python does. It hands
its arguments, folder, environment and streams to a server process, which forks. The child runs it
as ``__main__`` and ends with its exit status. Snakemake, if it is started this way, starts its jobs
this way too. The folder of the program also has `clipaffect`, `dvc` and `snakemake`.

What is not the same as a Python of its own: variables that are read at import (thread numbers) are
the server's, and a signal to the program does not reach the child (see ``kill_all``). One test runs
a part of the micro configuration in processes of their own (make test-all: all of it) and compares
every byte.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

import psutil

IMPORTED = (
    "altair",
    "av",
    "cv2",
    "h5py",
    "jinja2",
    "onnx",
    "pandas",
    "pyarrow.parquet",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.model_selection",
    "snakemake.cli",
    "snakemake.executors.local",
    "snakemake_executor_plugin_slurm",
    "torch",
    "clipaffect.bundle.export_model",
    "clipaffect.cli.main",
    "clipaffect.dataset.index_dataset",
    "clipaffect.features.embed_faces",
    "clipaffect.evaluation.compare_heads",
    "clipaffect.evaluation.evaluate_heads",
    "clipaffect.faces.align_faces",
    "clipaffect.dataset.extract_frames",
    "clipaffect.features.import_features",
    "clipaffect.features.join_features",
    "clipaffect.postprocess.postprocess_scores",
    "clipaffect.prediction.batch",
    "clipaffect.report.build_report",
    "clipaffect.report.first_page",
    "clipaffect.report.show_timings",
    "clipaffect.submission.write_submission",
    "clipaffect.features.build_table",
    "clipaffect.training.train_heads",
)
LATE = {"dvc": ("dvc.cli.parser", "dvc.repo")}  # imported when it is first asked for
COMMANDS = ("python", "clipaffect", "dvc", "snakemake")

CLIENT = """\
#!{python} -IS
import json, os, socket, sys
name = os.path.basename(sys.argv[0])
words = sys.argv[1:] if name == "python" else ["-m", name, *sys.argv[1:]]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(asked)
    status = server.recv(1)
os._exit(status[0] if status else 137)
"""


def python() -> str:
    """The program; its server is started once a process, and ends with it."""
    return _start()[0]


def kill_all() -> None:
    """SIGKILL everything that the program has started and that still runs, as a lost node does."""
    children = psutil.Process(_start()[1].pid).children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children)


@cache
def _start() -> tuple[str, subprocess.Popen]:
    folder = tempfile.TemporaryDirectory(prefix="preloaded-")
    client, address = Path(folder.name, "python"), f"{folder.name}/socket"
    for name in COMMANDS:
        command = client.with_name(name)
        command.write_text(CLIENT.format(python=sys.executable, address=address))
        command.chmod(0o755)
    words = [sys.executable, __file__, address, str(client)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdout is not None
    if server.stdout.read() != b"listening":  # and then it is closed
        raise RuntimeError("the preloaded Python did not start; see above")

    def end() -> None:
        server.terminate()
        server.wait()
        folder.cleanup()

    atexit.register(end)
    return str(client), server


def run_main(arguments: list[str]) -> int:
    """Run `-m MODULE`, `-c CODE` or a file, with arguments, as ``__main__``: the exit status."""
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            sys.path[0] = str(Path(arguments[0]).parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return int(ended.code or 0)
    except BaseException:  # as Python itself ends
        traceback.print_exc()
        return 1
    return 0


def read_request(connection: socket.socket) -> tuple[list[str], str, dict[str, str], list[int]]:
    """Arguments, folder, environment and open streams."""
    length, streams, _, _ = socket.recv_fds(connection, 4, 3)
    asked = b""
    while len(asked) < int.from_bytes(length, "big"):
        asked += connection.recv(1 << 16)
    arguments, folder, environment = json.loads(asked)
    return arguments, folder, environment, streams


def become(
    arguments: list[str], folder: str, environment: dict[str, str], streams: list[int], client: str
) -> int:
    """In the child: be the process that was asked for; returns its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, buffering=1, closefd=False)
        for number, mode in enumerate(("r", "w", "w"))
    )
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.executable = client
    status = run_main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def reap(number: int, frame: object) -> None:
    """Take note of children that ended: their CPU time is then this process's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def serve(address: str, client: str) -> None:
    """Import everything, then fork for each connection."""
    for name in IMPORTED:
        importlib.import_module(name)
    importlib.import_module("clipaffect.encoders.untrained").open_clip()
    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        os.write(1, b"listening")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        while True:
            connection, _ = listener.accept()
            request = read_request(connection)
            for name in LATE.get(request[0][1], ()):
                importlib.import_module(name)
            gc.freeze()  # or each child's collector visits, and so copies, all that is imported
            if os.fork() == 0:
                listener.close()
                status = become(*request, client)
                connection.sendall(bytes([status]))
                os._exit(0)
            for stream in request[3]:
                os.close(stream)
            connection.close()


if __name__ == "__main__":
    serve(*sys.argv[1:])
