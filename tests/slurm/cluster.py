"""A SLURM cluster of one node and fake GPUs on this machine, without systemd and outside /etc.

``python tests/slurm/cluster.py COMMAND ...`` runs a command with ``sbatch``, ``squeue`` and the
others talking to a fresh cluster, and stops it afterwards: ``... cluster.py bash`` to look around.
Needs root and Debian's slurmctld, slurmd and munge (``make slurm-setup``).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from workflow_lib.core.errors import UserError

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "setpriv")
PARTITION = "fake"
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"

SLURM_CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
# No cgroups: containers and virtual machines rarely lend them.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# What every task sees, in a file: which GPU SLURM gave it.
TaskProlog={folder}/task_prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
# The node may promise more memory and cores than the machine has.
SlurmdParameters=config_overrides
ReturnToService=2
# Finished jobs stay visible for squeue; there is no accounting to ask.
MinJobAge=3600
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} \
ThreadsPerCore=1 RealMemory={memory_mb} Gres=gpu:a100:{gpus} State=UNKNOWN
PartitionName={partition} Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
"""

# The jobs of Snakemake's SLURM plugin drop every variable SLURM_*, SLURM_CONF among them, before
# they call srun: the wrapper names the configuration again.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""
TASK_PROLOG = """\
#!/bin/sh
echo "$SLURM_JOB_ID ${{CUDA_VISIBLE_DEVICES:--}}" >> {folder}/tasks.txt
"""


def missing() -> str | None:
    """What keeps a cluster from starting here, in one line; None if nothing does."""
    lacking = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if lacking:
        return (
            f"{', '.join(lacking)} not found: run 'make slurm-setup' as root, or on Debian and Ubuntu "
            "'sudo apt-get install slurmctld slurmd munge'"
        )
    if os.geteuid() != 0:
        return "the test cluster needs root (SLURM starts jobs as their users; GPUs are faked by mknod)"
    return None


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


class Cluster:
    """Daemons of one cluster with all their files in one folder; a context that starts and stops it.

    ``environment`` is what a client's process needs, ``daemons`` the processes by name. Any number of
    clusters may run at a time.
    """

    def __init__(self, folder: Path, *, gpus: int = 2, cpus: int = 2, memory_mb: int = 1_000_000) -> None:
        if (reason := missing()) is not None:
            raise UserError(reason)
        self.folder = folder.resolve()
        self.gpus, self.cpus, self.memory_mb = gpus, cpus, memory_mb
        self.environment = os.environ | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder}/bin:{_path()}",
        }
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._write()
            for name, answers in (
                ("munged", (self.folder / "munge.socket").exists),
                ("slurmctld", lambda: "UP" in self.ask("scontrol", "ping")),
                ("slurmd", lambda: self.ask("sinfo", "-h", "-o", "%T").strip() in ("idle", "mixed")),
            ):
                self.start(name)
                self._wait(answers, name)
        except BaseException:
            self._stop_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.ask("scancel", "--user=root")
            self._wait(lambda: not self.ask("squeue", "-h", "-t", "R,CG"), "squeue")
        finally:
            self._stop_all()

    def _write(self) -> None:
        (self.folder / "munge.socket").unlink(missing_ok=True)  # of a munged that was killed
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        (self.folder / "tasks.txt").touch()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        controller_port, node_port = _free_ports(2)
        host = socket.gethostname().split(".")[0]
        (self.folder / "slurm.conf").write_text(
            SLURM_CONF.format(
                host=host,
                folder=self.folder,
                controller_port=controller_port,
                node_port=node_port,
                cpus=self.cpus,
                memory_mb=self.memory_mb,
                gpus=self.gpus,
                partition=PARTITION,
            )
        )
        devices = [self.folder / f"gpu{index}" for index in range(self.gpus)]
        for device in devices:
            if device.exists():
                continue
            try:  # the numbers of /dev/null: harmless to open
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            except PermissionError:
                raise UserError(
                    f"{self.folder}: device files for the fake GPUs may not be made here (a container "
                    "without the capability MKNOD?); run the SLURM test on a machine of its own"
                ) from None
        (self.folder / "gres.conf").write_text(
            "AutoDetect=off\n" + "".join(f"NodeName={host} Name=gpu Type=a100 File={d}\n" for d in devices)
        )
        for name, text in (
            ("bin/srun", SRUN.format(folder=self.folder, srun=shutil.which("srun", path=_path()))),
            ("task_prolog", TASK_PROLOG.format(folder=self.folder)),
        ):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)

    def start(self, name: str) -> None:
        """Start ``munged``, ``slurmctld`` or ``slurmd``; it ends with this process at the latest."""
        folder = self.folder
        arguments = {
            "munged": [
                "--foreground",
                "--force",  # a folder that others may read is no reason to refuse a test
                f"--socket={folder}/munge.socket",
                f"--key-file={folder}/munge.key",
                f"--pid-file={folder}/munged.pid",
                f"--seed-file={folder}/munge.seed",
                f"--log-file={folder}/munged.log",
            ],
            "slurmctld": ["-D", "-f", f"{folder}/slurm.conf"],
            "slurmd": ["-D", "-f", f"{folder}/slurm.conf"],
        }[name]
        with (folder / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", name, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the command, not for the cluster under it
            )

    def stop(self, name: str) -> None:
        """Stop one daemon and wait for its end; nothing where it does not run."""
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _stop_all(self) -> None:
        for name in ("slurmd", "slurmctld", "munged"):
            self.stop(name)

    def ask(self, *command: str) -> str:
        """Answer of a client such as ``squeue``; empty where it fails, never waiting for long."""
        done = subprocess.run(
            ["timeout", "20", *command], env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    def jobs(self) -> dict[str, dict[str, str]]:
        """All jobs known to the controller, by id, with the fields of ``scontrol show job -d``."""
        lines = self.ask("scontrol", "show", "job", "-d", "--oneliner").splitlines()
        # Values may hold blanks and equals signs, so a field ends where the next name begins.
        pattern = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(.*?)(?=\s[A-Za-z][\w:/]*=|\s*$)")
        return {
            job["JobId"]: job for job in (dict(pattern.findall(line)) for line in lines) if "JobId" in job
        }

    def tasks(self) -> dict[str, set[str]]:
        """What the tasks of each job saw in CUDA_VISIBLE_DEVICES; ``-`` where it was not set."""
        seen: dict[str, set[str]] = {}
        for line in (self.folder / "tasks.txt").read_text().splitlines():
            job, gpu = line.split()
            seen.setdefault(job, set()).add(gpu)
        return seen

    def _wait(self, answers: Callable[[], bool], name: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not answers():
            daemon = self.daemons.get(name)
            if time.monotonic() > deadline or (daemon is not None and daemon.poll() is not None):
                log = self.folder / f"{name}.out"
                end = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
                raise UserError(f"{name} does not answer: {' | '.join(end) or 'no output'}")
            time.sleep(0.1)


def main() -> int:
    """Run a command with a cluster of its own."""
    if len(sys.argv) < 2:
        print(f"usage: {sys.argv[0]} COMMAND ...", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Cluster(Path(folder)) as cluster:
            return subprocess.run(sys.argv[1:], env=cluster.environment, check=False).returncode
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
