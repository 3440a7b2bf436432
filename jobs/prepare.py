"""Turn a data set into a PAIRS manifest, the table of image pairs that jobs.match reads.

    python -m jobs.prepare --dataset spair --root SPair-71k --split test --out pairs.parquet

Data sets: spair, pf-pascal, pf-willow, coco (COCO-keypoint JSON: Animal-Pose, AP-10K), animal-pose (as Parquet),
table (pairs of your own, CSV or Parquet), folder (images paired by a rule) and photographs (images in Parquet, for
training that needs no keypoints). Each is described in pipeline/datasets/<name>.py.

Cost: reads annotations, not images; seconds. But pf-pascal also opens each image for its size, and animal-pose and
photographs write out the images that their tables hold.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Literal

from jobs.command import run_command
from pipeline import datasets
from pipeline.datasets.common.interface import Options
from pipeline.datasets.common.writer import Summary, write_manifest
from pipeline.io import storage


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """What to read and where to write it."""

    dataset: str
    """spair, pf-pascal, pf-willow, coco, animal-pose, table, folder or photographs."""
    on_error: Literal["raise", "skip"] = "raise"
    """A pair that cannot be used ends the job, or is left out and listed in OUT.skipped.csv."""
    relative_uris: bool = False
    """Write image URIs relative to --root (or its folder, where it is a table), to be given to jobs.match as
    --image-root, instead of absolute ones. Images that are written beside the manifest are relative to its folder."""


def run(config: Config) -> str:
    """Write the manifest and print what is in it; returns its path or URI."""
    dataset = datasets.load(config.dataset)
    _refuse_unread_options(config, dataset.OPTIONS)
    config = replace(config, root=storage.absolute(config.root), out=storage.absolute(config.out))
    _check_out(config)
    summary = write_manifest(
        dataset.pairs(config),
        config.out,
        dataset=config.dataset,
        skip_errors=config.on_error == "skip",
        written_uri=partial(_relative, config=config) if config.relative_uris else str,
    )
    _print(summary, config.out)
    if config.relative_uris and (outside := sum(_relative(uri, config) == uri for uri in summary.images)):
        print(f"kept absolute: {outside:,} images, which are not below {config.image_root}")
    return config.out


def _relative(uri: str, config: Config) -> str:
    """`uri` relative to the image root, or to the manifest's folder if it was written beside it; itself if neither."""
    for above, base in ((config.inline_images, config.out.rpartition("/")[0]), (config.image_root, config.image_root)):
        if uri.startswith(f"{above}/"):
            return uri.removeprefix(f"{base}/")
    return uri


def _check_out(config: Config) -> None:
    """ValueError unless --out has the suffix by which manifests are found and is none of the inputs."""
    if not config.out.endswith(".parquet"):
        raise ValueError(f"--out must end in .parquet, got {config.out}")
    inputs = (config.root, config.annotations, config.training_list)
    storage.refuse_overwrite(config.out, *(given for given in inputs if given))


def _refuse_unread_options(config: Config, read: tuple[str, ...]) -> None:
    """An option that the data set does not read would be silently without effect."""
    for field in fields(Options):
        if field.name in ("root", "out", *read) or getattr(config, field.name) == field.default:
            continue
        flag, flags = (", ".join(f"--{name.replace('_', '-')}" for name in names) for names in ((field.name,), read))
        raise ValueError(f"{flag} means nothing to {config.dataset}, which reads: {flags or 'only --root and --out'}")


def _print(summary: Summary, out: str) -> None:
    print(
        f"{out}: {summary.pairs:,} pairs, {len(summary.categories):,} categories, {len(summary.images):,} images, "
        f"{summary.keypoints:,} keypoint pairs"
    )
    for reason, count in summary.reasons().items():
        print(f"left out: {count:,} x {reason}")
    if summary.rejected:
        print(f"listed in {out}.skipped.csv")
    if summary.unchecked_images:
        print(f"not checked: {summary.unchecked_images:,} images on web servers")


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
