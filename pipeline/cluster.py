"""A Ray to run on, and whether it has what a job needs: better an error now than a job that waits for ever."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data
from ray.exceptions import RayError, RayTaskError

from pipeline.build import IO_CPUS, MATCH_CPUS
from pipeline.errors import ClusterError


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray at `address`, else at RAY_ADDRESS, else an embedded one that ends with the block.

    Inside a submitted job RAY_ADDRESS is set, so the same call runs on the cluster. What Ray raises in the block
    becomes the ValueError or OSError that a worker raised, or else ClusterError.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    dashboard = False if address == "local" else None
    ray.init(address, include_dashboard=dashboard, logging_level=logging.ERROR, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []  # they take a long slice for a hanging one
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ValueError | OSError):
            raise cause from error
        raise ClusterError(f"a worker failed: {type(cause).__name__}: {cause}") from error
    except RayError as error:
        raise ClusterError(f"Ray failed: {type(error).__name__}: {error}") from error
    finally:
        ray.shutdown()


def choose_device(device: str) -> str:
    """'auto' made definite by what the cluster has. Raises ValueError for GPUs that are not there."""
    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "auto":
        return "cuda" if n_gpus else "cpu"
    if device.startswith("cuda") and not n_gpus:
        raise ValueError("--device cuda needs a GPU and the Ray cluster has none; use --device cpu")
    return device


def choose_workers(workers: int | None, device: str) -> int:
    """How many processes match: as asked, else one per GPU or core.

    Raises ValueError if the cluster has too little for them and for the decoding beside them.
    """
    resources = ray.cluster_resources()
    n_cpus, n_gpus = resources.get("CPU", 0.0), int(resources.get("GPU", 0))
    on_gpu = device.startswith("cuda")
    chosen = workers or max(1, n_gpus if on_gpu else int(n_cpus))
    needed = chosen * MATCH_CPUS + IO_CPUS
    if needed > n_cpus or (on_gpu and chosen > n_gpus):
        raise ValueError(
            f"{chosen} workers need {needed:g} CPUs{f' and {chosen} GPUs' if on_gpu else ''}; the Ray cluster has "
            f"{n_cpus:g} CPUs and {n_gpus} GPUs: ask for fewer --workers or a larger cluster"
        )
    return chosen
