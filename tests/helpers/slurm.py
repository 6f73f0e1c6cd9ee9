"""A SLURM of one node from Debian's packages, unpacked and started in a folder: for a trial, as root."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = (
    "munge",
    "libmunge2",
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "libhwloc15",
    "liblua5.1-0",
)
#: Jobs of partition "high" stop those of "low". Gres was not made to work.
CONFIGURATION = """
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
PluginDir={root}/usr/lib/x86_64-linux-gnu/slurm-wlm
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=60
KillWait=3
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,preempt_youngest_first
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=3 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class NoSlurm(Exception):
    """The packages cannot be had here, or do not run."""


class Slurm:
    """SLURM in ``folder``: `start`, commands by `run`, and `stop`."""

    def __init__(self, folder: Path):
        self.folder, self.root = folder, folder / "root"
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        self.environment = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'slurm-wlm'}",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{self.root / 'usr/bin'}:{self.root / 'usr/sbin'}:{os.environ['PATH']}",
        }
        self.daemons: list[subprocess.Popen] = []

    def start(self) -> None:
        """Unpack and start it.

        Raises:
            NoSlurm: it cannot be had here.
        """
        if os.getuid() != 0 or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise NoSlurm("it needs root and Debian's packages")
        for name in ("debs", "root", "run", "state", "spool", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        fetched = subprocess.run(
            ["apt-get", "download", *PACKAGES], cwd=self.folder / "debs", capture_output=True, text=True, timeout=120
        )
        if fetched.returncode:
            raise NoSlurm(f"apt-get download: {fetched.stderr.strip().splitlines()[-1]}")
        for package in (self.folder / "debs").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(self.root)], check=True)
        configuration = CONFIGURATION.format(host=platform.node().split(".")[0], folder=self.folder, root=self.root)
        (self.folder / "slurm.conf").write_text(configuration)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        run, log = self.folder / "run", self.folder / "log"
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={run / 'munge.sock'}",
                     f"--pid-file={run / 'munged.pid'}", f"--log-file={log / 'munged.log'}",
                     f"--seed-file={run / 'munged.seed'}")  # fmt: skip
        self.wait(lambda: (run / "munge.sock").exists(), "munged")
        self._daemon("slurmctld-wlm", "-D", "-i")
        self._daemon(
            "slurmd-wlm", "-D", "-N", platform.node().split(".")[0], "-d", str(self.root / "usr/sbin/slurmstepd-wlm")
        )
        self.wait(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T", check=False), "slurmd")

    def _daemon(self, *command: str) -> None:
        with open(self.folder / "log" / f"{command[0]}.out", "wb") as out:
            path = shutil.which(command[0], path=self.environment["PATH"])
            self.daemons.append(subprocess.Popen([path, *command[1:]], env=self.environment, stdout=out, stderr=out))

    def run(self, *command: str, check: bool = True) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout

    def jobs(self, partition: str = "low", state: str = "RUNNING") -> list[str]:
        """Ids of the jobs in ``state``."""
        return self.run("squeue", "-h", "-o", "%i", "-p", partition, "-t", state).split()

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 40) -> None:
        """Until ``condition`` holds.

        Raises:
            NoSlurm: it does not in time.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = "\n".join(path.read_text(errors="replace")[-600:] for path in (self.folder / "log").iterdir())
                raise NoSlurm(f"{what} does not answer: {logs}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End all jobs and daemons."""
        self.run("scancel", "--user=root", check=False)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
