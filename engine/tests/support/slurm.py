"""A real SLURM on loopback, of one node or several: no systemd, no cgroups, no accounting, a private directory."""

from __future__ import annotations

import os
import pwd
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support import sacct, slurm_guard

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "srun")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the programs of the daemons are; not all of it is on every user's PATH."""
PATIENT_S = 300
"""A machine may be suspended or busy for some minutes; a wait that is longer fails."""
PORTS = range(20_000, 30_000)
"""Below the range of ports that the kernel assigns, so that ours stay free between the check and the start."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
"""Files that stand in for GPUs: SLURM hands them out and sets CUDA_VISIBLE_DEVICES."""
GRACE_S = 60
"""How long a job of the partition `grace` continues after `high` has preempted it."""
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}

SETTINGS: dict[str, object] = {
    "ClusterName": "cairn",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "MpiDefault": "none",
    # No cgroups: processes are found by their parents, and nothing is measured or bound.
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "JobAcctGatherType": "jobacct_gather/none",
    # As many CPUs as the tests want, whatever the machine has.
    "SlurmdParameters": "config_overrides",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU",
    "GresTypes": "gpu",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "JobRequeue": 1,
    # Decide at once and not once in a minute. Any mention of "defer" turns deferring on.
    "SchedulerParameters": "sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0",
    # What is slow is not broken: nothing here times out because the machine was busy or suspended.
    "SlurmdTimeout": 0,
    "MessageTimeout": 60,
    "BatchStartTimeout": 120,
    "KillWait": 30,  # SLURM's own default: from TERM to KILL
    "ReturnToService": 1,  # a node that was set down stays down until it is restored
    "MinJobAge": 3600,  # jobs that have ended can be asked about
}


@dataclass(frozen=True)
class Job:
    """A job, or one task of an array, as the controller reports it."""

    id: str
    """`5`, `5_1`, or `5_[2-3]` for tasks of an array that have not started."""
    state: str
    reason: str
    restarts: int
    partition: str
    fields: Mapping[str, str]
    """All fields of `scontrol show job`."""

    @property
    def ended(self) -> bool:
        """True if nothing of it runs and it will not start again."""
        return self.state in ENDED


class Slurm:
    """A context with a cluster; at its end, or when this process dies, nothing of it is left.

    Args:
        num_cpus: Number of CPUs that each node claims to have.
        num_gpus: Number of files that stand in for GPUs, see `DEVICES`.
        num_nodes: Number of nodes, daemons with a port each: `localhost`, or `node0`, `node1`, ...
        settings: Lines of slurm.conf that replace those of `SETTINGS`.
    """

    def __init__(self, num_cpus: int = 4, num_gpus: int = 2, num_nodes: int = 1, **settings: object) -> None:
        assert 0 <= num_gpus <= len(DEVICES), f"at most {len(DEVICES)} pretended gpus"
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        # SLURM accepts no other node next to `localhost`.
        self.nodes = ["localhost"] if num_nodes == 1 else [f"node{number}" for number in range(num_nodes)]
        self._settings = settings
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def why_not() -> str | None:
        """Return why there can be no cluster on this machine; None if there can."""
        if sys.platform != "linux":
            return "a private SLURM needs Linux"
        missing = [program for program in PROGRAMS if shutil.which(program, path=_search_path()) is None]
        if missing:
            return f"{', '.join(missing)} not found (Debian: apt-get install slurm-wlm munge)"
        return None

    @classmethod
    def require(cls) -> None:
        """Skip a test where there can be no cluster; fail it if CAIRN_TEST_SLURM=required."""
        if (reason := cls.why_not()) is not None:
            if os.environ.get("CAIRN_TEST_SLURM") == "required":
                pytest.fail(f"{reason}, and CAIRN_TEST_SLURM=required")
            pytest.skip(reason)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a command needs in order to use this cluster."""
        return {"SLURM_CONF": str(self.conf), "PATH": f"{self.directory / 'bin'}:{_search_path()}"}

    # --- from start to end ---

    def __enter__(self) -> Slurm:
        assert (reason := self.why_not()) is None, reason
        self.directory = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a short path: there are sockets in it
        self.conf = self.directory / "slurm.conf"
        self._guard = self._start_guard()
        try:
            self._configure()
            self._start_daemons()
        except BaseException as error:
            error.add_note(self.logs())
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._stop()

    def _start_guard(self) -> subprocess.Popen[bytes]:
        """Start the guard: it reads from a pipe that ends with this process, however that ends."""
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(slurm_guard.__file__)), str(self.directory)],
            stdin=subprocess.PIPE,
            cwd="/",
            env={"PATH": SYSTEM_PATH},
            start_new_session=True,
        )

    def _stop(self) -> None:
        self._guard.communicate(b"\n")  # closing it is not enough: a forked process may hold it open
        for daemon in self._daemons.values():
            daemon.wait()
        assert self._guard.returncode == 0, f"not all of the cluster in {self.directory} is gone: see above"

    def _configure(self) -> None:
        self.controller_port, *self.node_ports = _free_ports(1 + len(self.nodes))
        for name in ("state", "log", "bin", *(f"spool-{node}" for node in self.nodes)):
            (self.directory / name).mkdir()
        self.conf.write_text("".join(f"{line}\n" for line in self._conf()))
        (self.directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # without it slurmd does not start
        gpus = [f"Name=gpu File={device}\n" for device in DEVICES[: self.num_gpus]]
        (self.directory / "gres.conf").write_text("AutoDetect=off\n" + "".join(gpus))
        program = self.directory / "bin" / "sacct"
        command = shlex.join([sys.executable, "-I", "-S", sacct.__file__])
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)

    def _conf(self) -> list[str]:
        here, host = self.directory, socket.gethostname().partition(".")[0]
        me = pwd.getpwuid(os.getuid()).pw_name
        settings = {
            **SETTINGS,
            # How long a credential lasts is also how long a requeued job waits; 5 is the least that is accepted.
            "AuthInfo": f"socket={here}/munge.socket,cred_expire=5",
            "SlurmctldHost": "localhost(127.0.0.1)",
            "SlurmctldPort": self.controller_port,
            "CommunicationParameters": _communication(),
            "SlurmUser": me,
            "SlurmdUser": me,
            "StateSaveLocation": here / "state",
            "SlurmdSpoolDir": here / "spool-%n",
            "SlurmctldPidFile": here / "slurmctld.pid",
            "SlurmdPidFile": here / "slurmd-%n.pid",
            **self._settings,
        }
        gres = f"Gres=gpu:{self.num_gpus}" if self.num_gpus else ""
        hosts = [host, *self.nodes[1:]]  # each node needs a host of its own
        nodes = [
            f"NodeName={node} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={self.num_cpus} {gres} State=UNKNOWN"
            for node, name, port in zip(self.nodes, hosts, self.node_ports, strict=True)
        ]
        partition = f"Nodes={','.join(self.nodes)} DefaultTime=60 MaxTime=INFINITE State=UP"
        return [
            *(f"{key}={said}" for key, said in settings.items() if said != ""),
            *nodes,
            f"PartitionName=low {partition} Default=YES PriorityTier=1 PreemptMode=REQUEUE",
            f"PartitionName=grace {partition} PriorityTier=1 PreemptMode=REQUEUE GraceTime={GRACE_S}",
            f"PartitionName=high {partition} PriorityTier=10 PreemptMode=OFF",
        ]

    def _start_daemons(self) -> None:
        here = self.directory
        subprocess.run(["mungekey", "-c", "-f", "-k", here / "munge.key"], check=True, env=self._daemon_environment())
        places = {"socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        files = [f"--{option}={here}/munge.{end}" for option, end in places.items()]
        files += [f"--key-file={here}/munge.key", f"--log-file={here}/log/munged"]
        self._start("munged", "--foreground", "--force", "--origin=127.0.0.1", *files)
        self._wait_for_start("munged to listen", (here / "munge.socket").exists)
        self._start("slurmctld", "-D", "-i", "-f", str(self.conf))
        self._wait_for_start("slurmctld to listen", lambda: _listens(self.controller_port))
        for node in self.nodes:
            self._start("slurmd", "-D", "-N", node, "-f", str(self.conf))
        self._wait_for_start("the nodes to be idle", lambda: {*map(self.node_state, self.nodes)} == {"IDLE"})

    def _daemon_environment(self) -> dict[str, str]:
        """Nothing of our environment, above all no SLURM_*; the guard finds members of the cluster by SLURM_CONF."""
        return {"SLURM_CONF": str(self.conf), "PATH": _search_path()}

    def _start(self, program: str, *options: str) -> None:
        name = f"{program}-{len(self._daemons)}"
        with open(self.directory / "log" / f"{name}.said", "wb") as said:
            self._daemons[name] = subprocess.Popen(
                [program, *options],
                cwd=self.directory,
                env=self._daemon_environment(),
                umask=0o077,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_start(self, what: str, condition: Callable[[], bool]) -> None:
        def condition_or_death() -> bool:
            for name, daemon in self._daemons.items():
                assert daemon.poll() is None, f"{name.partition('-')[0]} has ended with exit code {daemon.returncode}"
            return condition()

        _wait(condition_or_death, PATIENT_S, lambda: f"waited too long for {what}")

    def logs(self, num_lines: int = 15) -> str:
        """Return the last lines of each daemon's log."""
        parts = []
        for path in sorted((self.directory / "log").glob("*")):
            lines = path.read_text(errors="replace").splitlines()[-num_lines:]
            parts.append("\n  ".join([f"the end of {path.name}:", *lines]))
        return "\n".join(parts)

    # --- questions ---

    def jobs(self, job: str | None = None) -> list[Job]:
        """Return all jobs so far; or one of them, or the tasks of one array."""
        said = self._run("scontrol", "--oneliner", "show", "job", *([job] if job else []))
        return [_job(fields) for fields in sacct.parse(said)]

    def job(self, job: str) -> Job:
        """Return one job, or one task (`5_1`)."""
        found = self.jobs(job)
        assert len(found) == 1, f"{job} is an array: {[each.id for each in found]}"
        return found[0]

    def state(self, job: str) -> str:
        """Return its state: `PENDING`, `RUNNING`, `COMPLETING`, `COMPLETED`, ..."""
        return self.job(job).state

    def restarts(self, job: str) -> int:
        """Return how often SLURM has put it back into the queue."""
        return self.job(job).restarts

    def output(self, job: str) -> str:
        """Return what the batch script has written so far."""
        path = Path(self.job(job).fields["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def pids(self, job: str) -> list[int]:
        """Return the processes of a job, including those that have left its session."""
        number = self.job(job).fields["JobId"]
        return [pid for pid, environment in self._members() if environment.get("SLURM_JOB_ID") == number]

    def node_state(self, node: str | None = None) -> str:
        """Return `IDLE`, `MIXED`, `ALLOCATED`, `DOWN`, ..., with `+` and flags if there are any; empty if unknown."""
        done = self._try("scontrol", "--oneliner", "show", "node", node or self.nodes[0])
        return next((word[6:] for word in done.stdout.split() if word.startswith("State=")), "")

    def wait(self, condition: Callable[[], object], seconds: float = PATIENT_S) -> None:
        """Wait until a condition is true; if that takes too long, fail with the state of the cluster."""
        _wait(condition, seconds, self._standing)

    def _standing(self) -> str:
        jobs = "".join(f"\n  {job.id}: {job.state} {job.reason} Restarts={job.restarts}" for job in self.jobs())
        return f"waited too long; the node is {self.node_state()}, the jobs are:{jobs}\n{self.logs()}"

    # --- what a user does ---

    def submit(self, script: str | Sequence[str], env: Mapping[str, str] | None = None, **options: object) -> str:
        """Submit a batch script or a command, and return its id.

        Args:
            script: Its text, with or without `#!`, or the words of a command.
            env: Additional environment variables of the job.
            options: Options of sbatch, `array="0-3"` for `--array=0-3`; True for an option without a value. By default
                the output goes to a file that is removed with the cluster, see `output`.
        """
        text = script if isinstance(script, str) else shlex.join(script)
        text = text if text.startswith("#!") else f"#!/bin/bash\n{text}\n"
        options = {"output": self.directory / "job-%j.out", **options}
        names = {key: f"--{key.replace('_', '-')}" for key in options}
        words = [names[key] if said is True else f"{names[key]}={said}" for key, said in options.items()]
        return self._run("sbatch", "--parsable", *words, text=text, env=env).strip().partition(";")[0]

    def sbatch(self, words: Sequence[str], cwd: Path) -> str:
        """Call sbatch with these words in a directory, and return the id of the job."""
        return self._run("sbatch", "--parsable", *words, cwd=cwd).strip().partition(";")[0]

    def cancel(self, *jobs: str) -> None:
        """Cancel jobs, and wait until they have ended."""
        self._run("scancel", *jobs)
        self.wait(lambda: all(each.ended for job in jobs for each in self.jobs(job)))

    def signal(self, job: str, name: str, batch: bool = False) -> None:
        """Signal all processes of all steps, or the batch script and its children."""
        number = self.job(job).fields["JobId"]  # 5_1 cannot be signalled while other tasks of its array are pending
        wanted = job if job.startswith(f"{number}_") else number  # the last task has the number of all
        self._run("scancel", f"--signal={name}", *(["--batch"] if batch else []), wanted)

    # --- what happens to a user ---

    def requeue(self, job: str) -> None:
        """As an operator: the job ends (TERM, after KillWait KILL) and starts again some seconds later."""
        before = self.restarts(job)
        self._run("scontrol", "requeue", job)
        self.wait(lambda: self.restarts(job) > before)

    def preempt(self, seconds: float = 600) -> str:
        """Submit a job of higher priority that takes the whole node, and return its id.

        Returns once all other jobs are preempted; those of `grace` continue for a while, see `GRACE_S`.

        Args:
            seconds: Duration of the job, unless it is cancelled.
        """
        job = self.submit(["sleep", str(seconds)], partition="high", exclusive=True, job_name="preempts")
        self.wait(lambda: not any(each.state == "RUNNING" and not _preempted(each) for each in self._others()))
        return job

    def _others(self) -> list[Job]:
        return [job for job in self.jobs() if job.partition != "high"]

    def fail_node(self, node: str | None = None) -> None:
        """Set a node down: its jobs go back into the queue, and nothing starts there until `restore_node`."""
        node = node or self.nodes[0]
        before = [job.id for job in self.jobs() if job.state == "RUNNING" and node in job.fields["NodeList"]]
        self._run("scontrol", "update", f"nodename={node}", "state=down", "reason=drill")
        self.wait(lambda: "DOWN" in self.node_state(node) and not any(self.state(job) == "RUNNING" for job in before))

    def shrink(self, job: str, num_nodes: int) -> None:
        """Let a job that waits in the queue start on fewer nodes, with one task on each."""
        self.wait(lambda: self.state(job) == "PENDING")
        self._run("scontrol", "update", f"jobid={job}", f"numnodes={num_nodes}", f"numtasks={num_nodes}")

    def restore_node(self, node: str | None = None) -> None:
        """Make a node accept jobs again; does nothing if it does."""
        node = node or self.nodes[0]
        if any(word in self.node_state(node) for word in ("DOWN", "DRAIN", "FAIL")):
            self._run("scontrol", "update", f"nodename={node}", "state=resume")
            self.wait(lambda: not any(word in self.node_state(node) for word in ("DOWN", "DRAIN", "FAIL")))

    def reset(self) -> None:
        """Return to the state after the start: no jobs, and nothing that one has left behind."""
        jobs = [job.fields["JobId"] for job in self.jobs() if not job.ended]
        if jobs:
            self._try("scancel", *jobs)  # some may have ended meanwhile
        slurm_guard.kill([pid for pid, environment in self._members() if "SLURM_JOB_ID" in environment])
        self.wait(lambda: all(job.ended for job in self.jobs()))
        self.restore_node()
        self.wait(lambda: self.node_state() == "IDLE")

    def _members(self) -> list[tuple[int, dict[str, str]]]:
        return list(slurm_guard.members(self.conf))

    def _run(
        self, *command: str, text: str | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> str:
        done = self._try(*command, text=text, env=env, cwd=cwd)
        assert done.returncode == 0, f"{shlex.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _try(
        self, *command: str, text: str | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=text or "",
            env={**os.environ, **self.environment, **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=PATIENT_S,
        )


def _job(fields: dict[str, str]) -> Job:
    return Job(
        sacct.name(fields),
        fields["JobState"],
        fields["Reason"],
        int(fields["Restarts"]),
        fields["Partition"],
        fields,
    )


def _preempted(job: Job) -> bool:
    """True if SLURM has preempted it; a job with a grace time continues for that long."""
    return job.fields.get("PreemptTime", "None") != "None"


def _wait(condition: Callable[[], object], seconds: float, complaint: Callable[[], str]) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, complaint()
        time.sleep(0.1)  # each question to SLURM is a process, which takes time from the jobs


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"


def _free_ports(count: int) -> list[int]:
    """Draw free ports on loopback; drawn at random, so that clusters that start at once rarely choose the same one."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            found += [port] if port not in found else []
    return found


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _communication() -> str:
    """Make SLURM use loopback whatever the machine's name resolves to, and where there is no other interface."""
    parameters = []
    try:
        if socket.gethostbyname(socket.gethostname()).startswith("127."):
            parameters += ["NoCtldInAddrAny", "NoInAddrAny"]  # otherwise they would listen at the machine's own address
    except OSError:
        pass  # the name does not resolve
    try:
        socket.getaddrinfo("localhost", 0, socket.AF_INET, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
    except OSError:
        parameters.append("EnableIPv6")  # without it SLURM resolves as above, and finds no address
    return ",".join(parameters)
