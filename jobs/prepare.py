"""Turn a data set into a PAIRS manifest, the table of image pairs that `nemf match` reads.

    nemf prepare --dataset spair --root SPair-71k --split test --out pairs.parquet

`nemf prepare --dataset NAME --help` describes a data set and its options. For one of your own, package.module:function,
see pipeline/datasets/registry.py.

Annotations are compared with their images: a size that they state and the image has not is an error, annotations of the
stored pixels of a photograph that is shown turned (EXIF) are turned, and points outside their image are counted.

Cost: annotations are read, and the head of each annotated image for its size: seconds for ten thousand images on a
disk, one request each in an object store (--no-check-sizes: none). pf-pascal reads whole images for their sizes, and
animal-pose and photographs write the images in their tables to files.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, make_dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jobs.command import BAD_INPUT, MatcherName, Workers, flag_of, run_command
from jobs.output import ending_quietly
from pipeline.datasets.common.interface import DatasetOptions, Note, PairRow, Rejected, UnpairedOptions
from pipeline.datasets.common.writer import Summary, write_manifest
from pipeline.datasets.registry import BUILT_IN, load_dataset, summaries
from pipeline.io import storage
from pipeline.io.uri_field import LocalPath, is_relative, uri_fields, uris_of, with_absolute_uris
from pipeline.pairing.options import PairingOptions
from pipeline.pairing.propose import with_proposed_pairs


@dataclass(frozen=True, kw_only=True)
class Config(DatasetOptions):
    """Data set and manifest; the options of one data set are fields of the dataclasses that config_type makes."""

    dataset: Annotated[str, tyro.conf.arg(metavar="NAME|PACKAGE.MODULE:FUNCTION")]
    """Name of the data set; each has options of its own."""
    on_error: Literal["raise", "skip"] = "raise"
    """A pair that cannot be used ends the job, or is left out and listed in OUT.skipped.csv."""
    check_sizes: bool = True
    """Compare points, and sizes that annotations state, with the images' sizes, which are read from the heads of the
    image files; images on web servers are not checked."""
    relative_uris: bool = False
    """Write image URIs relative to --root, or to its folder if it is a table; pass that folder to `nemf match` as
    --image-root. Images written next to the manifest are relative to the manifest's folder. True flow and masks, which
    are read when matches are scored, stay absolute."""


@dataclass(frozen=True, kw_only=True)
class Neighbours(PairingOptions):
    """PairingOptions as flags, for data sets that may have images without pairs; all are of --pairing neighbours."""

    matcher: MatcherName = PairingOptions.matcher
    backbone_weights: LocalPath | None = None
    """Local safetensors file of weights, as timm or torchvision publish them; default: the library's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that computes features; auto: GPUs if the cluster has any."""
    workers: Annotated[Workers | None, tyro.conf.arg(metavar="N|MIN,MAX")] = None
    """Number of processes that compute features, or their least and largest number; default: one per core, or GPU."""


def config_type(dataset: str) -> type[Config]:
    """Config with the options of a data set. Raises ValueError if there is no such data set."""
    options = load_dataset(dataset).options
    pairing = (Neighbours,) if issubclass(options, UnpairedOptions) else ()
    return make_dataclass("Config", [], bases=(Config, *pairing, options), frozen=True, kw_only=True)


def make_config(dataset: str, **options: Any) -> Config:
    """The Config of one data set: fields of Config and the data set's own options."""
    return config_type(dataset)(dataset=dataset, **options)


def run(config: Config) -> str:
    """Write the manifest and print its counts; returns its path or URI.

    config: of the type that config_type gives for its data set.
    """
    config = with_absolute_uris(_with_files_below_root(config))
    _check_out(config)
    try:
        summary = write_manifest(
            _pairs(config),
            config.out,
            dataset=config.dataset,
            skip_errors=config.on_error == "skip",
            check_sizes=config.check_sizes,
            written_uri=partial(_relative, config=config) if config.relative_uris else str,
        )
    except (ValueError, OSError) as error:
        # a data set of the user's own may need no folder; with annotations elsewhere, images may be on other machines
        needs_root = config.dataset in BUILT_IN and not getattr(config, "annotations", None)
        if needs_root and "://" not in config.root and not Path(config.root).exists():
            raise FileNotFoundError(f"--root: there is no folder {config.root}") from error
        raise
    _print(summary, config.out)
    if config.relative_uris and (outside := sum(_relative(uri, config) == uri for uri in summary.images)):
        print(f"kept absolute: {outside:,} images, which are not below {config.image_root}")
    return config.out


def _pairs(config: Config) -> Iterator[PairRow | Rejected | Note]:
    """What the data set yields, and pairs of its unpaired images."""
    items = load_dataset(config.dataset).pairs(config)
    options = {
        field.name: getattr(config, field.name) for field in fields(PairingOptions) if hasattr(config, field.name)
    }
    pairing = PairingOptions(**options)
    pairing.check()
    return with_proposed_pairs(items, pairing)


def _with_files_below_root(config: Config) -> Config:
    """`config` with each relative path that exists only below --root, and not in the working folder, made absolute."""
    below: dict[str, Any] = {}
    for name, field in uri_fields(type(config)).items():
        value = getattr(config, name)
        if name in ("root", "out") or not value or value in (field.names or ()):
            continue
        several = isinstance(value, tuple)
        found = tuple(_below_root(uri, config.image_root) for uri in (value if several else (value,)))
        below[name] = found if several else found[0]
    return replace(config, **below)


def _below_root(uri: str, root: str) -> str:
    """The file below `root` for a relative path that exists only there; any other path or URI unchanged."""
    below = storage.join(root, uri)
    return below if is_relative(uri) and not storage.exists(uri) and storage.exists(below) else uri


def _relative(uri: str, config: Config) -> str:
    """`uri` relative to the image root, or to the manifest's folder if it was written there; otherwise unchanged."""
    for above, base in ((config.inline_images, config.out.rpartition("/")[0]), (config.image_root, config.image_root)):
        if uri.startswith(f"{above}/"):
            return uri.removeprefix(f"{base}/")
    return uri


def _check_out(config: Config) -> None:
    """Raises ValueError unless --out has the suffix by which manifests are found and is none of the inputs."""
    if not config.out.endswith(".parquet"):
        raise ValueError(f"--out must end in .parquet, got {config.out}")
    storage.refuse_overwrite(config.out, *(uri for name, uri in uris_of(config) if name != "out"))


def _print(summary: Summary, out: str) -> None:
    print(
        f"{out}: {summary.pairs:,} pairs, {len(summary.categories):,} categories, {len(summary.images):,} images, "
        f"{summary.keypoints:,} keypoint pairs"
    )
    for reason, count in summary.reasons().items():
        print(f"left out: {count:,} x {reason}")
    for what, count in summary.notes.most_common():
        print(f"note: {count:,} x {what} (first: {summary.noted_at[what]})")
    if summary.rejected:
        print(f"listed in {out}.skipped.csv")
    if summary.unchecked_images:
        print(f"not checked: {summary.unchecked_images:,} images on web servers")


def config_type_of(words: Sequence[str]) -> type[Config]:
    """The Config type of a command line: that of its --dataset, or Config itself without one.

    Raises ValueError if there is no such data set, or for an option that only other data sets have.
    """
    if (dataset := _dataset_of(words)) is None:
        return Config
    config = config_type(dataset)
    flags, common = _flags(config), _flags(Config)
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        is_unknown = flag.startswith("--") and flag not in flags
        if is_unknown and any(flag in _flags(config_type(name)) for name in BUILT_IN):
            own = ", ".join(sorted(flags - common)) or "only --root and --out"
            raise ValueError(f"{flag} means nothing to {dataset}, which reads: {own}")
    return config


def _dataset_of(words: Sequence[str]) -> str | None:
    """The value of --dataset on a command line; None without one."""
    for word, following in pairwise([*words, None]):
        flag, equals, value = (word or "").partition("=")
        if flag == "--dataset":
            return value if equals else following
    return None


def _flags(config: type[Config]) -> set[str]:
    return {flag_of(config, field.name) for field in fields(config)}


def _description(dataset: str | None) -> str:
    """The text of --help: of one data set, or of the job with a list of the data sets."""
    if dataset is not None:
        return load_dataset(dataset).description
    return "\n".join([__doc__, "Data sets:", *(f"    {name:16}{summary}" for name, summary in summaries().items())])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    words = sys.argv[1:] if argv is None else argv
    try:
        config = config_type_of(words)
    except ValueError as error:
        with ending_quietly():
            print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    return run_command(config, run, words, _description(_dataset_of(words)))


if __name__ == "__main__":
    sys.exit(main())
