"""One vector for each image, by a matcher's features, on Ray Data.

An image's vector depends on it alone: each process computes with one thread, in batches of one size. Ray moves URIs and
vectors; images are read where their vectors are made.
"""

import hashlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray.data
from jaxtyping import Int16
from tqdm import tqdm

from pipeline.cluster.connect import connected, this_cluster
from pipeline.cluster.resources import choose_device
from pipeline.io.images import ImageError, decode_image, fetch_image
from pipeline.matching.options import THREADS
from pipeline.matching.stream import MATCH_CPUS
from pipeline.matching.workers import choose_workers
from pipeline.pairing.nearest import rounded
from pipeline.pairing.options import PairingOptions
from schemas.failures import FAILURE, Failure

if TYPE_CHECKING:  # torch, which the driver does without
    from nemf.matcher import ImageEmbedder

_IMAGES_PER_TASK = 64
_FETCHED_AT_ONCE = 8
"""Encoded images in memory of a process at once."""
_TRIES = 2
"""How often a process that died, and the task it died of, are started again. Then the job ends."""

_EMBEDDED = pa.schema(
    [
        ("number", pa.int64()),
        ("vector", pa.list_(pa.int16())),
        ("digest", pa.binary(32)),
        ("failure", FAILURE),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedded:
    """The vectors of the images that could be read."""

    numbers: list[int]
    """Which of the given images they are, ascending."""
    vectors: Int16[np.ndarray, "n c"]
    """Of pipeline.pairing.nearest.rounded."""
    digests: list[bytes]
    """SHA-256 of the encoded bytes, for each vector."""
    failures: dict[int, Failure]
    """The failures of the others, by their number."""


def embed_on_ray(uris: Sequence[str], options: PairingOptions) -> Embedded:
    """The vectors of the images at `uris`.

    Raises ValueError for a matcher that has none or resources that the cluster does not have, ClusterError where Ray
    failed, and CredentialsError if a store rejects the credentials of this process.
    """
    tasks = [
        pa.table({"number": pa.array(range(first, last), pa.int64()), "uri": list(uris[first:last])})
        for first, last in _ranges(len(uris))
    ]
    with connected(options.address):
        cluster = this_cluster()
        device = choose_device(options.device, cluster)
        least, most = choose_workers(options.workers, device, 1.0, cluster)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")  # Ray 2.60 has nothing in its place
            stream = ray.data.from_arrow(tasks).map_batches(
                EmbedWorker,
                fn_constructor_args=(options.matcher, options.backbone_weights, device),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=min(least, len(tasks)), max_size=min(most, len(tasks))),
                num_cpus=MATCH_CPUS,
                num_gpus=1.0 if device.startswith("cuda") else 0,
                ray_remote_args_fn=_tries,
            )
        interval = 0.5 if sys.stderr.isatty() else 10.0
        with tqdm(total=len(uris), unit="image", mininterval=interval) as progress:
            return _collected(_counted(stream.iter_batches(batch_size=None, batch_format="pyarrow"), progress))


def _tries() -> dict[str, Any]:
    """An image that kills the process that reads it must not do so for ever, as Ray Data would let it."""
    return {"max_restarts": _TRIES, "max_task_retries": _TRIES}


def _ranges(count: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, _IMAGES_PER_TASK):
        yield first, min(first + _IMAGES_PER_TASK, count)


def _counted(batches: Iterable[Any], progress: Any) -> Iterator[pa.Table]:
    for batch in batches:
        progress.update(batch.num_rows)
        yield batch


def _collected(batches: Iterable[pa.Table]) -> Embedded:
    """Rows of _EMBEDDED, in whatever order they came."""
    numbers, vectors, digests, failures = [], [], [], {}
    for batch in batches:
        for number, vector, digest, failure in zip(*(batch[name] for name in _EMBEDDED.names), strict=True):
            if failure.is_valid:
                failures[number.as_py()] = Failure(**failure.as_py())
            else:
                numbers.append(number.as_py())
                vectors.append(vector.values.to_numpy())
                digests.append(digest.as_py())
    order = np.argsort(numbers)
    return Embedded(
        numbers=[numbers[index] for index in order],
        vectors=np.stack([vectors[index] for index in order]) if vectors else np.zeros((0, 1), np.int16),
        digests=[digests[index] for index in order],
        failures=failures,
    )


class EmbedWorker:
    """A process that holds the matcher and embeds images: rows {number, uri} to rows of _EMBEDDED."""

    def __init__(self, matcher: str, backbone_weights: str | None, device: str) -> None:
        # loaded by the first call: what a constructor raises, Ray Data tries again for ever
        self._load = partial(_load, matcher, backbone_weights, device)
        self._matcher: ImageEmbedder | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._matcher = self._matcher or self._load()
        return embed_images(self._matcher, rows["number"].to_pylist(), rows["uri"].to_pylist())


def _load(matcher: str, backbone_weights: str | None, device: str) -> "ImageEmbedder":
    import torch

    from nemf import load_matcher
    from nemf.matcher import ImageEmbedder

    torch.set_num_threads(THREADS)
    loaded = load_matcher(matcher, backbone_weights=backbone_weights, device=device)
    if not isinstance(loaded, ImageEmbedder):
        raise ValueError(
            f"matcher {matcher} has no features of whole images, so it cannot tell which look alike: give nemf-small, "
            "a NeMF checkpoint, or nearest-neighbour:MODEL, none with ?zoom=1"
        )
    return loaded


def embed_images(matcher: "ImageEmbedder", numbers: Sequence[int], uris: Sequence[str]) -> pa.Table:
    """Rows of _EMBEDDED of the images at `uris`, in their order; `numbers` go into the rows."""
    rows: list[dict[str, Any]] = [{"number": number} for number in numbers]
    read: list[dict[str, Any]] = []

    def images() -> Iterator[np.ndarray]:
        """Decoded one by one, as the matcher takes them; a row whose image cannot be read gets its failure."""
        for row, data, uri in zip(rows, _fetched(uris), uris, strict=True):
            try:
                if isinstance(data, ImageError):
                    raise data
                rgb = decode_image(data, uri)
            except ImageError as error:
                row["failure"] = error.failure._asdict()
                continue
            row["digest"] = hashlib.sha256(data).digest()
            read.append(row)
            yield rgb

    for number, vector in enumerate(matcher.embed(images())):
        if np.isfinite(vector).all():
            read[number]["vector"] = rounded(vector[None])[0]
        else:
            read[number]["failure"] = Failure("match", "not_finite", "its features are not finite")._asdict()
    return pa.Table.from_pylist(rows, _EMBEDDED)


def _fetched(uris: Sequence[str]) -> Iterator[bytes | ImageError]:
    """The encoded bytes of each, or why there are none."""
    with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
        for first in range(0, len(uris), _FETCHED_AT_ONCE):
            yield from pool.map(_fetch, uris[first : first + _FETCHED_AT_ONCE])


def _fetch(uri: str) -> bytes | ImageError:
    try:
        return fetch_image(uri)
    except ImageError as error:
        return error
