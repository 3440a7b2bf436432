"""What a user would write to match a manifest without `nemf match`, in three ways; benchmarks.peers starts them.

    python -m benchmarks.peer_programs plain --pairs pairs.parquet --out answers --matcher nemf-small

Every program matches the pairs' annotated points from source to target with the same matcher, and writes Parquet files
of pair_id and reference_xy_px into the folder `--out`. Images are read by Pillow.
"""

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from nemf import ImagePair, Matcher, load_matcher

_COLUMNS = ["pair_id", "source_uri", "target_uri", "source_xy_px"]
ANSWERS = pa.schema([("pair_id", pa.string()), ("reference_xy_px", pa.list_(pa.list_(pa.float32(), 2)))])


def plain(arguments: argparse.Namespace) -> None:
    """One pair after the other, as published code evaluates; the answers are written at the end."""
    torch.set_num_threads(arguments.workers)
    matcher = _matcher(arguments)
    answers = []
    for row in _rows(arguments.pairs):
        query_rgb, reference_rgb = _read(row["source_uri"]), _read(row["target_uri"])
        match = matcher.match(query_rgb, reference_rgb, _points(row), pair_id=row["pair_id"])
        answers.append({"pair_id": row["pair_id"], "reference_xy_px": match.reference_xy_px.tolist()})
    _write(arguments.out, answers)


def dataloader(arguments: argparse.Namespace) -> None:
    """Every image is read once, by the processes of a DataLoader, and kept, and so are the features of all images that
    the matcher's memory holds; the answers are written at the end."""
    torch.set_num_threads(arguments.workers)
    matcher, rows = _matcher(arguments), _rows(arguments.pairs)
    uris = sorted({row[side] for row in rows for side in ("source_uri", "target_uri")})
    # bytes and shapes: arrays of a DataLoader come as tensors in shared memory, of which there may be little
    loader = torch.utils.data.DataLoader(_Images(uris), batch_size=None, num_workers=arguments.workers)
    images = {uri: np.frombuffer(rgb, np.uint8).reshape(shape) for uri, rgb, shape in loader}
    pairs = [_pair(row, images[row["source_uri"]], images[row["target_uri"]]) for row in rows]
    _write(arguments.out, _answers(matcher, pairs))


def ray_data(arguments: argparse.Namespace) -> None:
    """Ray Data: read_parquet, map_batches with processes that hold the matcher, write_parquet."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    n_rows = pq.read_metadata(arguments.pairs).num_rows
    blocks = max(1, n_rows // arguments.batch_pairs)  # as many files are written
    ray.data.read_parquet(arguments.pairs, columns=_COLUMNS).repartition(blocks).map_batches(
        RayWorker,
        fn_constructor_args=(arguments,),
        batch_size=arguments.batch_pairs,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=arguments.workers),
        num_cpus=0.5,  # what is left must hold a task that reads, of one CPU, or none ever begins
    ).write_parquet(arguments.out)
    ray.shutdown()


class _Images(torch.utils.data.Dataset[tuple[str, bytes, tuple[int, ...]]]):
    def __init__(self, uris: Sequence[str]) -> None:
        self._uris = uris

    def __len__(self) -> int:
        return len(self._uris)

    def __getitem__(self, index: int) -> tuple[str, bytes, tuple[int, ...]]:
        rgb = _read(self._uris[index])
        return self._uris[index], rgb.tobytes(), rgb.shape


class RayWorker:
    """The matcher in a process; every image of a batch is read once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        self._matcher = _matcher(arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        images = {uri: _read(uri) for uri in {row[side] for row in rows for side in ("source_uri", "target_uri")}}
        pairs = [_pair(row, images[row["source_uri"]], images[row["target_uri"]]) for row in rows]
        return pa.Table.from_pylist(list(_answers(self._matcher, pairs)), ANSWERS)


PROGRAMS: dict[str, Callable[[argparse.Namespace], None]] = {
    "plain": plain,
    "dataloader": dataloader,
    "ray-data": ray_data,
}


def _matcher(arguments: argparse.Namespace) -> Matcher:
    return load_matcher(arguments.matcher, backbone_weights=arguments.backbone_weights, device="cpu")


def _rows(pairs: str) -> list[dict[str, Any]]:
    return pq.read_table(pairs, columns=_COLUMNS).to_pylist()


def _read(uri: str) -> np.ndarray:
    return np.asarray(Image.open(uri).convert("RGB"))


def _points(row: dict[str, Any]) -> np.ndarray:
    return np.array(row["source_xy_px"], np.float32).reshape(-1, 2)


def _pair(row: dict[str, Any], query_rgb: np.ndarray, reference_rgb: np.ndarray) -> ImagePair:
    return ImagePair(query_rgb=query_rgb, reference_rgb=reference_rgb, query_xy_px=_points(row), pair_id=row["pair_id"])


def _answers(matcher: Matcher, pairs: Sequence[ImagePair]) -> Iterator[dict[str, Any]]:
    for pair, match in zip(pairs, matcher.match_batch(pairs), strict=True):
        yield {"pair_id": pair.pair_id, "reference_xy_px": match.reference_xy_px.tolist()}


def _write(out: str, answers: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    Path(out).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(answers), ANSWERS), Path(out) / "answers.parquet")


def main() -> None:
    """Run the program that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--matcher", required=True)
    parser.add_argument("--backbone-weights")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-pairs", type=int, default=128)
    arguments = parser.parse_args()
    PROGRAMS[arguments.program](arguments)


if __name__ == "__main__":
    main()
