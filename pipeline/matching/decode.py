"""The first stage: the rows of a slice and the pixels of its images, each image fetched and decoded once.

A slice becomes one or more chunks of bounded size, which are matched one after the other.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.io import storage
from pipeline.io.images import ImageError, decode_reduced, fetch_image
from pipeline.io.manifest import INLINE_COLUMNS, drop_oversized_keypoints
from schemas.failures import FAILURE, Failure
from schemas.pairs import PAIRS

CHUNK_BYTES = 64 * 2**20
"""Largest number of bytes of pixels in a chunk, unless one pair has more."""
_FETCH_THREADS = 8
_PAIRS_FETCHED = 8
"""Pairs whose encoded images are fetched at once, and in memory at once."""

_OF_EVALUATION = (
    *(
        "keypoint_probability",
        "source_visibility",
        "target_visibility",
        "target_valid_xy_px",
        "mirror_keypoint_ids",
        "geometry_groups",
    ),
    *("azimuth_difference", "mirrored", "source_other_boxes_xyxy", "target_other_boxes_xyxy"),
    *("source_flow_uri", "target_flow_uri", "flow_format", "source_mask_uri", "target_mask_uri"),
)
"""Columns that only evaluation reads, from the manifest: they do not travel with the pixels."""

_PAIRS = pa.schema(
    [field for field in PAIRS if field.name not in (*INLINE_COLUMNS, *_OF_EVALUATION)]
    + [
        pa.field("source_key", pa.string()),
        pa.field("target_key", pa.string()),
        pa.field("failure", FAILURE),
    ]
)
_IMAGES = pa.schema(
    [
        ("key", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("whole_height", pa.int32()),
        ("whole_width", pa.int32()),
        ("rgb", pa.large_binary()),
        ("failure", FAILURE),
        ("milliseconds", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImage:
    """The pixels of an image, or its failure."""

    rgb: np.ndarray | None = None
    """(H, W, 3) uint8."""
    whole_hw: tuple[int, int] | None = None
    """Rows and columns of the image in its file; those of rgb are fewer where it was read at a reduced scale."""
    failure: Failure | None = None
    milliseconds: float = 0.0
    """Time to fetch and decode."""

    @property
    def n_bytes(self) -> int:
        """Memory of the pixels in bytes."""
        return 0 if self.rgb is None else self.rgb.nbytes


@dataclass(kw_only=True, eq=False)
class Chunk:
    """Pairs and their images."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    """PAIRS rows without the inline images and what only evaluation reads, with `source_key` and `target_key` naming
    entries of `images`, and `failure`: None, or the Failure of a pair that is not to be matched (it then has no
    images)."""
    images: dict[str, DecodedImage] = field(default_factory=dict)

    def to_row(self) -> pa.Table:
        """One row for Ray's object store: two Arrow streams."""
        images = [
            {
                "key": key,
                "height": image.rgb.shape[0] if image.rgb is not None else None,
                "width": image.rgb.shape[1] if image.rgb is not None else None,
                "whole_height": image.whole_hw and image.whole_hw[0],
                "whole_width": image.whole_hw and image.whole_hw[1],
                # A copy: pyarrow 26 never releases a memoryview that it converts.
                "rgb": image.rgb.tobytes() if image.rgb is not None else None,
                "failure": image.failure and image.failure._asdict(),
                "milliseconds": image.milliseconds,
            }
            for key, image in self.images.items()
        ]
        pairs = [pair | {"failure": pair["failure"] and pair["failure"]._asdict()} for pair in self.pairs]
        tables = {"pairs": pa.Table.from_pylist(pairs, _PAIRS), "images": pa.Table.from_pylist(images, _IMAGES)}
        return pa.table({name: _to_stream(table) for name, table in tables.items()})

    @classmethod
    def from_row(cls, row: pa.Table) -> "Chunk":
        """The inverse of to_row; the pixels are read-only views of the row's memory."""
        images = {}
        stored = pa.ipc.open_stream(row["images"][0].as_buffer()).read_all()
        for image, rgb in zip(stored.drop_columns("rgb").to_pylist(), stored["rgb"], strict=True):
            pixels = whole_hw = None
            if rgb.is_valid:
                shape = (image["height"], image["width"], 3)
                pixels = np.frombuffer(rgb.as_buffer(), np.uint8).reshape(shape)
                whole_hw = (image["whole_height"], image["whole_width"])
            images[image["key"]] = DecodedImage(
                rgb=pixels,
                whole_hw=whole_hw,
                failure=_to_failure(image["failure"]),
                milliseconds=image["milliseconds"],
            )
        pairs = pa.ipc.open_stream(row["pairs"][0].as_buffer()).read_all().to_pylist()
        return cls(pairs=[pair | {"failure": _to_failure(pair["failure"])} for pair in pairs], images=images)


def decode_rows(
    rows: pa.Table,
    image_root: str | None,
    *,
    allowed_prefixes: Sequence[str] = (),
    known_failures: Mapping[str, Failure] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    reduced_side: int | None = None,
) -> Iterator[Chunk]:
    """PAIRS rows to chunks, in order. What cannot be read is a failure in the chunk, never an exception.

    allowed_prefixes: image URIs must be below one of them; none allow everything (pipeline.io.uri_allowlist).
    known_failures: by pair_id, of pairs whose images are not to be read.
    chunk_bytes: largest number of bytes of pixels in a chunk, unless one pair has more.
    reduced_side: of pipeline.io.images.decode_reduced; None for whole images.
    Raises CredentialsError if a store rejects the credentials of this process: no pair is at fault then.
    """
    rows, oversized = drop_oversized_keypoints(rows)
    inline = {name: rows[name] for name in INLINE_COLUMNS}
    pairs = rows.drop_columns([*INLINE_COLUMNS, *_OF_EVALUATION]).to_pylist()
    loaders: dict[str, Callable[[], bytes]] = {}
    fetch = partial(fetch_image, allowed_prefixes=allowed_prefixes)
    for index, pair in enumerate(pairs):
        pair["failure"] = oversized.get(pair["pair_id"]) or (known_failures or {}).get(pair["pair_id"])
        for side in ("source", "target"):
            image = inline[f"{side}_image"][index].as_py()
            pair[f"{side}_key"] = _register(loaders, fetch, pair, side, image, image_root)
    chunk, size = Chunk(), 0
    with ThreadPoolExecutor(_FETCH_THREADS) as pool:
        for start in range(0, len(pairs), _PAIRS_FETCHED):
            next_pairs = pairs[start : start + _PAIRS_FETCHED]
            missing = dict.fromkeys(key for pair in next_pairs for key in _keys(pair) if key not in chunk.images)
            fetched = dict(zip(missing, pool.map(lambda key: _fetch(loaders[key]), missing), strict=True))
            for pair in next_pairs:
                # An image that only an earlier chunk has is fetched again: rare, and it bounds memory.
                images = {
                    key: chunk.images[key]
                    if key in chunk.images
                    else _decode(key, fetched.get(key) or _fetch(loaders[key]), reduced_side)
                    for key in _keys(pair)
                }
                if chunk.pairs and size + _new_bytes(chunk, images) > chunk_bytes:
                    yield chunk
                    chunk, size = Chunk(), 0
                size += _new_bytes(chunk, images)
                chunk.images |= images
                chunk.pairs.append(pair)
    if chunk.pairs:
        yield chunk


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fetched:
    """The encoded bytes of an image, or its failure."""

    data: bytes = b""
    failure: Failure | None = None
    seconds: float = 0.0


def _new_bytes(chunk: Chunk, images: dict[str, DecodedImage]) -> int:
    return sum(image.n_bytes for key, image in images.items() if key not in chunk.images)


def _keys(pair: dict[str, Any]) -> list[str]:
    """The keys of the images to decode for a pair."""
    return [] if pair["failure"] else list(dict.fromkeys((pair["source_key"], pair["target_key"])))


def _register(
    loaders: dict[str, Callable[[], bytes]],
    fetch: Callable[[str], bytes],
    pair: dict[str, Any],
    side: str,
    inline: bytes | None,
    root: str | None,
) -> str:
    """The key under which pairs share one side's image, with its loader added to `loaders`."""
    uri = pair[f"{side}_uri"]
    if inline is not None:
        key = f"inline {side} image {hashlib.sha256(inline).hexdigest()[:16]}"
        loaders[key] = lambda: inline
    elif uri:
        key = storage.resolve(uri, root)
        loaders[key] = lambda: fetch(key)
    else:
        key = f"no {side} image"
        loaders[key] = lambda: _raise_absent(side)
    return key


def _raise_absent(side: str) -> bytes:
    raise ImageError("fetch", "no_image", f"the row has neither {side}_uri nor {side}_image")


def _fetch(load: Callable[[], bytes]) -> _Fetched:
    start = time.perf_counter()
    try:
        return _Fetched(data=load(), seconds=time.perf_counter() - start)
    except ImageError as error:
        return _Fetched(failure=error.failure)


def _decode(key: str, fetched: _Fetched, reduced_side: int | None) -> DecodedImage:
    if fetched.failure:
        return DecodedImage(failure=fetched.failure)
    start = time.perf_counter()
    try:
        image = decode_reduced(fetched.data, key, reduced_side)
    except ImageError as error:
        return DecodedImage(failure=error.failure)
    milliseconds = (fetched.seconds + time.perf_counter() - start) * 1000
    return DecodedImage(rgb=image.rgb, whole_hw=image.whole_hw, milliseconds=milliseconds)


def _to_failure(record: dict[str, str] | None) -> Failure | None:
    return Failure(**record) if record else None


def _to_stream(table: pa.Table) -> pa.Array:
    """The table as an Arrow stream, in an array of one binary value that shares the stream's memory."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue()
    ends = pa.py_buffer(np.array([0, stream.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, stream])
