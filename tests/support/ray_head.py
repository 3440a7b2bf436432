"""A Ray head as a process of its own, with token authentication, that leaves nothing behind."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
_UNTIL_THE_PARENT_ENDS = [
    sys.executable,
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])",
]
"""Prefix of a command that gets a SIGTERM when this process ends, even if it is killed (PR_SET_PDEATHSIG)."""


@dataclass(frozen=True, kw_only=True)
class RayHead:
    """The head's addresses, and the environment variables of a process that uses it."""

    address: str
    dashboard: str
    environment: dict[str, str]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and capture its output."""
        return subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True, timeout=600, check=False
        )


@contextmanager
def ray_head(num_cpus: int = 2) -> Iterator[RayHead]:
    """A head that requires a token, ended together with every process it started."""
    # not pytest's folder: the paths of Ray's sockets would be longer than sockets' paths may be
    with tempfile.TemporaryDirectory(prefix="head") as folder:
        token = Path(folder) / "token"
        token.write_text("the-token-of-the-tests")
        gcs, dashboard, client = _free_ports(3)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",  # on a busy machine a minute is not enough
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # jobs are run by `python`
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        options = {
            "--port": gcs,
            "--dashboard-port": dashboard,
            "--ray-client-server-port": client,
            "--dashboard-agent-listen-port": 0,
            "--num-cpus": num_cpus,
            "--object-store-memory": 600_000_000,
            "--temp-dir": folder,
        }
        words = [str(word) for option in options.items() for word in option]
        process = _started(["--head", *words], environment, Path(folder) / "head.log")
        try:
            yield RayHead(
                address=f"127.0.0.1:{gcs}", dashboard=f"http://127.0.0.1:{dashboard}", environment=environment
            )
        finally:
            kill(process)


@contextmanager
def another_node(head: RayHead, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A second node of the head's cluster, with one CPU; it may be killed in the block."""
    words = ["--address", head.address, "--num-cpus", "1", "--object-store-memory", "300000000"]
    process = _started(words, head.environment, log)
    try:
        yield process
    finally:
        kill(process)


def kill(node: "subprocess.Popen[bytes]") -> None:
    """End a node at once, with every process it started; its own way to end takes half a minute."""
    processes = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
    node.kill()
    for child in processes:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    node.wait(30)
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive, f"still running after their node had ended: {alive}"


def _started(options: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A node, once it is up; Ray gives up after 30 seconds, too few for a busy machine, so it has three tries."""
    command = [*_UNTIL_THE_PARENT_ENDS, str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *options]
    for _ in range(3):
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            if "Ray runtime started" in log.read_text():
                return process
            time.sleep(0.2)
    raise AssertionError(f"the node did not start:\n{log.read_text()}")


def _free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports
