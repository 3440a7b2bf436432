"""Joining a Ray cluster, or starting an embedded one, and reading its resources."""

import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray
import ray._private.state
import ray.data
from ray.exceptions import AuthenticationError, RayError, RayTaskError

from pipeline.cluster.errors import ClusterError
from pipeline.cluster.resources import SHARED_MEMORY, Cluster, Nodes
from pipeline.io.storage_options import worker_environment

ANSWER_SECONDS = 10
"""Seconds for the head to accept a connection; Ray itself tries for minutes."""
START_WAITS = (5, 20, 60)
"""Seconds between the tries to start an embedded Ray."""
SHORT_FOLDER = "/tmp/ray"
"""Folder of an embedded Ray's files where TMPDIR is too long: the one it has without TMPDIR."""
SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""Bytes that the path of a Unix socket may have."""
_LONGEST_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray at `address`, else at RAY_ADDRESS, else an embedded one that ends with the block.

    Inside a submitted job RAY_ADDRESS is set, so the same call runs on the cluster. What Ray raises in the block
    becomes the ValueError or OSError that a worker raised, or else ClusterError. Raises ValueError or OSError if no
    Ray can be joined at the address, ClusterError if an embedded one did not start.
    """
    _join(address or os.environ.get("RAY_ADDRESS") or "local")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # otherwise only the text of a worker's error is kept
    context.issue_detectors_config.detectors = []  # the detectors report a long slice as hanging
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the logged errors are raised too
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ValueError | OSError):
            raise _as_raised(cause) from error
        raise ClusterError(f"a worker failed: {type(cause).__name__}: {cause}") from error
    except RayError as error:
        raise ClusterError(f"Ray failed: {type(error).__name__}: {error}") from error
    finally:
        ray.shutdown()


def _as_raised(cause: ValueError | OSError) -> ValueError | OSError:
    """The error without the text that Ray Data adds, also in place of a file's name: advice on Ray's own settings."""
    if isinstance(cause, OSError) and str(cause.filename).startswith("Failed to "):
        return OSError(cause.errno, cause.strerror)
    cause.args = tuple(arg.partition("\nFailed to ")[0] if isinstance(arg, str) else arg for arg in cause.args)
    return cause


def _join(address: str) -> None:
    if address == "local":
        _start()
        return
    if address != "auto":
        _check_that_it_answers(address)
    try:
        _init(address)
    except (ConnectionError, AuthenticationError) as error:
        raise _refused(address, error) from error
    except RuntimeError as error:  # such as another version of Ray or Python than this process has
        raise ValueError(f"the Ray at {address} cannot be joined: {_one_line(error)}") from error
    except Exception as error:
        if isinstance(error, ValueError | OSError):
            raise
        raise ClusterError(f"Ray did not start: {_one_line(error)}") from error


def _start() -> None:
    """An embedded Ray, tried again where a busy machine may be the reason that it did not start.

    Ray gives each of its processes 30 seconds and has errors of many types for one that was not up by then.
    """
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")
    folder = _short_folder()
    for wait in (*START_WAITS, None):
        before = _children()
        try:
            _init("local", include_dashboard=False, _temp_dir=folder)
            return
        except AuthenticationError as error:
            raise _refused("local", error) from error
        except Exception as error:
            if isinstance(error, ValueError | OSError) and not isinstance(error, ConnectionError | TimeoutError):
                raise
            if isinstance(error, BrokenPipeError):  # raised for stdout, which Ray flushes
                raise
            ray.shutdown()  # ends the processes known to ray.init; those of a node that was not up in time remain
            _end(_children() - before)
            if wait is None:
                tries = len(START_WAITS) + 1
                raise ClusterError(f"Ray did not start in {tries} tries: {_one_line(error)}") from error
            print(f"Ray did not start ({_one_line(error)}); trying again in {wait} s", file=sys.stderr, flush=True)
        time.sleep(wait)


def _init(address: str, **options: Any) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(
        address,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env=worker_environment(),
        **options,
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process at once, without a word


def _short_folder() -> str | None:
    """The folder of an embedded Ray's files if its own choice is too long for the sockets in there; None if not."""
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(variable, "")
    if len(os.fsencode(folder)) <= SOCKET_BYTES - len(_LONGEST_SOCKET):
        return None
    print(f"{variable} is too long for the sockets of Ray ({folder}); its files are in {SHORT_FOLDER}", file=sys.stderr)
    return SHORT_FOLDER


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _refused(address: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"the Ray at {address} cannot be joined: {_one_line(error)}; if it runs, it may want RAY_AUTH_MODE=token "
        "and its token, in the file RAY_AUTH_TOKEN_PATH or in RAY_AUTH_TOKEN"
    )


def _check_that_it_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ValueError(
            f"a Ray to join is HOST:PORT of its head (port 6379), auto or local; got {address}. From outside a "
            "cluster: nemf submit --address http://HEAD:8265 -- ..."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {address}: {error}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def this_cluster() -> Cluster:
    """The cluster that this process has joined."""
    nodes = [Nodes(has=node["Resources"]) for node in ray.nodes() if node["Alive"]]
    config = ray._private.state.state.get_cluster_config()  # the autoscaler's; Ray has no public API for it
    groups = config.node_group_configs if config else ()
    return Cluster(
        now=nodes,
        later=[
            Nodes(has=dict(group.resources), count=sys.maxsize if group.max_count < 0 else group.max_count)
            for group in groups
        ],
        shared_memory=shutil.disk_usage(SHARED_MEMORY).total if len(nodes) == 1 and SHARED_MEMORY.exists() else None,
    )
