"""A real SLURM on this machine: one controller, several nodes, in a folder of its own.

Every node is a slurmd with its own name, port and spool folder; its processors, memory and GPUs
are what the configuration says (``config_overrides``), so small machines make a whole cluster.
A cluster may have accounting, as every real one has: slurmdbd and a MariaDB of its own. Without it,
a job's end is read from squeue, which remembers it (MinJobAge).
A step that ended while the controller was away tells it a minute later: if SLURM counted it as
unkillable sooner (UnkillableStepTimeout), it would drain the node.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

CPU_NODES, GPU_NODE = ("cpu1", "cpu2"), "gpu1"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol")
DEBIAN = "Debian's slurm-wlm, munge, slurmdbd and mariadb-server"
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr")
PATH = os.environ["PATH"] + os.pathsep + "/usr/sbin"

CONFIGURATION = """\
ClusterName=clipaffect
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n/slurmd.pid
SlurmdSpoolDir={folder}/%n/spool
SlurmdLogFile={folder}/%n/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/task-prolog
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=100000
PriorityType=priority/basic
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
{storage}
JobCompType=jobcomp/none
MinJobAge=3600
JobRequeue=1
ReturnToService=2
SlurmdTimeout=8
SlurmctldTimeout=10
KillWait=3
UnkillableStepTimeout=300
InactiveLimit=0
GresTypes=gpu
{nodes}
PartitionName=cpu Nodes=cpu1,cpu2 Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=gpu1 MaxTime=INFINITE State=UP
PartitionName=low Nodes=cpu1,cpu2 MaxTime=INFINITE State=UP {cancels}
PartitionName=urgent Nodes=cpu1,cpu2 MaxTime=INFINITE State=UP PriorityTier=9
"""

DATABASE_DAEMON = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[0]}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[1]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
"""

# What a site's prolog does for every job: a folder on the node's own disk.
TASK_PROLOG = """\
#!/bin/sh
scratch={folder}/$SLURMD_NODENAME/scratch/$SLURM_JOB_ID
mkdir -p "$scratch"
echo "export SLURM_TMPDIR=$scratch"
"""


# Snakemake's executor takes SLURM_CONF out of a job's environment before it calls srun.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


def missing_programs(accounting: bool) -> list[str]:
    """Programs of Debian's packages of SLURM, munge and MariaDB that this machine lacks."""
    names = PROGRAMS + (ACCOUNTING if accounting else ())
    return [name for name in names if shutil.which(name, path=PATH) is None]


def wait_for(what: str, true: Callable[[], object], seconds: float = 600) -> None:
    """Ask until an answer is true."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.2)


# The profile asks SLURM every 40 s or less often: jobs of seconds want to be seen sooner.
WATCHED = (
    "--slurm-init-seconds-before-status-checks",
    "1",
    "--seconds-between-status-checks",
    "1",
)


class Cluster:
    """The daemons, by their own process ids, and the commands that talk to them."""

    def __init__(self, folder: Path, accounting: bool) -> None:
        self.folder, self.accounting = folder, accounting
        path = f"{folder}/bin{os.pathsep}{PATH}"
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self.daemons: dict[str, subprocess.Popen] = {}
        self._write()

    def _write(self) -> None:
        count = 1 + len(CPU_NODES) + 1
        ports = _free_ports(count + 2)
        self.database_port = ports[-1]
        storage = (
            f"AccountingStorageType=accounting_storage/slurmdbd\n"
            f"AccountingStorageHost=127.0.0.1\nAccountingStoragePort={ports[count]}\n"
            f"AccountingStoragePass={self.folder}/munge.socket\n"
            "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE"
            if self.accounting
            else "AccountingStorageType=accounting_storage/none"
        )
        user = getpass.getuser()
        daemon = self.folder / "slurmdbd.conf"
        daemon.write_text(
            DATABASE_DAEMON.format(folder=self.folder, ports=ports[count:], user=user)
        )
        daemon.chmod(0o600)
        memory = 64000
        nodes = [
            f"NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory={memory}"
            for name, port in zip(CPU_NODES, ports[1:], strict=False)
        ]
        nodes.append(
            f"NodeName={GPU_NODE} NodeAddr=127.0.0.1 Port={ports[count - 1]} CPUs=4 "
            f"RealMemory={4 * memory} Gres=gpu:4"
        )
        for name in (*CPU_NODES, GPU_NODE, "state", "bin"):
            (self.folder / name).mkdir(parents=True)
        for number in range(4):
            (self.folder / f"gpu{number}").touch()
        (self.folder / "gres.conf").write_text(
            f"NodeName={GPU_NODE} Name=gpu File={self.folder}/gpu[0-3]\n"
        )
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                user=user,
                storage=storage,
                cancels="PreemptMode=CANCEL" if self.accounting else "",
                ports=ports,
                folder=self.folder,
                nodes="\n".join(nodes),
            )
        )
        for name, text in (("task-prolog", TASK_PROLOG), ("bin/srun", SRUN)):
            script = self.folder / name
            script.write_text(text.format(folder=self.folder, srun=shutil.which("srun", path=PATH)))
            script.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)

    def start(self) -> None:
        """Start everything; returns when every node is idle."""
        at = self.folder
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--socket={at}/munge.socket",
            f"--key-file={at}/munge.key",
            f"--pid-file={at}/munge.pid",
            f"--log-file={at}/munge.log",
            f"--seed-file={at}/munge.seed",
        )
        wait_for("munge", (at / "munge.socket").exists)
        if self.accounting:
            self._start_accounting()
        self.start_daemon("slurmctld")
        for name in (*CPU_NODES, GPU_NODE):
            self.start_node(name)
        wait_for("the nodes", lambda: self.states() == {"idle"})

    def _start_accounting(self) -> None:
        """Start an empty MariaDB and slurmdbd on it."""
        at, own = self.folder, f"--datadir={self.folder}/database"
        subprocess.run(
            [
                "mariadb-install-db",
                own,
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | self.environment,
        )
        first = at / "first.sql"
        first.write_text(
            "create user slurm@localhost identified by 'slurm';\n"
            "grant all on accounting.* to slurm@localhost;\n"
        )
        self._daemon(
            "mariadbd",
            "--no-defaults",
            own,
            f"--user={getpass.getuser()}",
            f"--socket={at}/database.socket",
            f"--port={self.database_port}",
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
            f"--init-file={first}",
        )
        wait_for("MariaDB", (at / "database.socket").exists)
        self.start_daemon("slurmdbd")

    def start_daemon(self, name: str) -> None:
        """Start slurmctld or slurmdbd; it resumes from its saved state."""
        asks = {"slurmctld": ("scontrol", "ping"), "slurmdbd": ("sacctmgr", "-n", "show", "user")}
        self._daemon(name, "-D")
        wait_for(name, lambda: self.ask(*asks[name]).returncode == 0)

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        self._daemon(name, "-D", "-N", name, program="slurmd")

    def _daemon(self, name: str, *arguments: str, program: str | None = None) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [program or name, *arguments],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env=os.environ | self.environment,
                start_new_session=True,
            )

    def ask(self, *command: str) -> subprocess.CompletedProcess:
        """Call one of SLURM's commands."""
        return subprocess.run(
            command, capture_output=True, text=True, env=os.environ | self.environment, check=False
        )

    def states(self) -> set[str]:
        """The states of all nodes."""
        listed = self.ask("sinfo", "--Node", "--noheader", "--format=%T").stdout
        return {state.rstrip("*") for state in listed.split()}

    def node_state(self, name: str) -> str:
        """The state of a node."""
        return self.ask("sinfo", "--nodes", name, "--noheader", "--format=%T").stdout.strip()

    def jobs(self) -> dict[str, tuple[str, str, str]]:
        """Of every job that SLURM remembers: its state, node and what it is."""
        listed = self.ask("squeue", "--states=all", "--noheader", "--format=%i|%T|%N|%k").stdout
        rows = (line.split("|") for line in listed.splitlines())
        return {job: (state, node, comment) for job, state, node, comment in rows}

    def kill(self, name: str) -> None:
        """SIGKILL a daemon alone; what it started lives on."""
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def lose_node(self, name: str) -> None:
        """As if its plug were pulled: its slurmd and everything that runs on it."""
        doomed = self.processes_on(name)
        self.kill(name)
        for process in doomed:
            _kill(process)

    def processes_on(self, name: str) -> list[psutil.Process]:
        """The steps of a node, which would report an end, and then the processes of its jobs."""
        jobs = [process for process in self.left() if node_of(process) == name]
        parents = {process.parent() for process in jobs}
        return [p for p in parents if p is not None and p.name() == "slurmstepd"] + jobs

    def stop(self) -> None:
        """Stop the daemons, and whatever still runs in a job of theirs."""
        self.ask("scancel", "--full", "--user", getpass.getuser())
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        left = self.left()
        for process in left:
            _kill(process)
        psutil.wait_procs(left, 60)

    def left(self) -> list[psutil.Process]:
        """Processes of jobs: those that carry this cluster's configuration."""
        found = []
        for process in psutil.process_iter():
            try:
                own = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
            except psutil.Error:
                continue
            if own and process.pid != os.getpid():
                found.append(process)
        return found


@contextmanager
def start_run(cluster: Cluster, folder: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """A run of the workflow through the profile, which says what it does in ``folder/said``.

    One that still runs behind the block is killed, and its jobs are cancelled.
    """
    command = [
        sys.executable,
        "-m",
        "clipaffect",
        "run",
        "--verbose",  # what Snakemake says of its jobs
        "--profile",
        "profiles/slurm",
        *WATCHED,
        *arguments,
    ]
    with (folder / "said").open("ab") as said:
        started = subprocess.Popen(
            command,
            cwd=folder,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env=os.environ | cluster.environment,
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
            cluster.ask("scancel", "--full", "--user", getpass.getuser())
        started.wait()


def whole_run(cluster: Cluster, folder: Path, *arguments: str) -> tuple[int, str]:
    """A run from its start to its end: the exit code and what it said."""
    with start_run(cluster, folder, *arguments) as started:
        return started.wait(1500), (folder / "said").read_text()


def node_of(process: psutil.Process) -> str | None:
    """The node that a job's process was started on; None of a daemon."""
    return process.environ().get("SLURMD_NODENAME")


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held until the last is known, so they differ."""
    holders = [socket.socket() for _ in range(count)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports
