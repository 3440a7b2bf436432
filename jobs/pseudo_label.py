"""Keep the matches that are probably right as labels, at a stated precision.

    nemf pseudo-label --pairs pairs.parquet --matches runs/x --precision 0.9 --out labels.parquet

Writes a PAIRS manifest with the matched points as keypoints and a probability for each, which train, evaluate, match
and all else read. The precision is the one that the calibration expects: the mean probability of all labels kept.
Killed and run again, it goes on; the manifest is there whole or not at all. Cost: a second of a core for some
seven thousand pairs of 16 points; docs/pseudo-labels.md.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from jobs.command import Names, run_command
from pipeline.io import storage
from pipeline.io.uri_field import Uri, UriField, with_absolute_uris
from pipeline.runs.folder import refuse_files_of_runs

_FORMS = ("spair", "coco", "huggingface", "huggingface-by-reference")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The run, what makes a label of a match, and the file to write."""

    pairs: Uri
    """The PAIRS manifest that was matched."""
    matches: Uri
    """Finished run of `nemf match`."""
    out: Uri
    """The manifest of labels to write, a .parquet file. Beside it, OUT.work is used until it is written."""
    calibration: Uri | None = None
    """JSON file of `nemf calibrate`; default: the one that ships with the matcher."""
    precision: float | None = None
    """Minimum share of the labels that is expected to be right, over the whole run; 0.9 without --min-probability."""
    min_probability: float | None = None
    """Minimum probability of each label."""
    max_cycle: float | None = None
    """Maximum cycle error, as a share of the longest side of the object's box (of the image without one)."""
    per_pair: int | None = None
    """Maximum number of labels of a pair, the most probable ones; default: no maximum."""
    min_points: int = 1
    """Minimum number of labels of a pair; pairs with fewer are left out."""
    agree: Uri | None = None
    """Run of another matcher over the same manifest, for a calibration that judges by agreement with it."""
    check_images: bool = False
    """Leave out pairs whose images are not there any more; lists each folder of images once."""
    page: Uri | None = None
    """HTML file to write: counts, expected precision, and drawn labels of several probabilities."""
    export: Annotated[Names, UriField(names=_FORMS, only_these_names=True)] = ()
    """Write the labels in other forms too, each as FORM FOLDER, a new or empty folder of this machine: spair, coco (of
    keypoints with names), huggingface, huggingface-by-reference (its rows hold paths of images, not images)."""


def run(config: Config) -> str:
    """Write the labels; returns their path. Raises ValueError and OSError for bad input."""
    from pipeline.pseudo_labels.exports.export import check_exports, export_labels, have_names
    from pipeline.pseudo_labels.finished_run import finished_run
    from pipeline.pseudo_labels.make_labels import make_labels
    from pipeline.pseudo_labels.selection import Rules

    storage.refuse_overwrite(config.out, config.matches, config.pairs)
    runs = (config.matches, *([config.agree] if config.agree else []))
    written = {"--out": [config.out], "--page": [config.page] if config.page else [], "--export": config.export[1::2]}
    for flag, places in written.items():
        for place in places:
            refuse_files_of_runs(place, *runs, flag=flag)
    if config.page is not None:
        storage.refuse_overwrite(config.page, config.out, config.matches, config.pairs, flag="--page")
    if not config.out.endswith(".parquet"):
        raise ValueError(f"--out is the name of a .parquet file; got {config.out}")
    by_default = 0.9 if config.precision is None and config.min_probability is None else config.precision
    rules = Rules(
        precision=by_default,
        min_probability=config.min_probability,
        max_cycle=config.max_cycle,
        per_pair=config.per_pair,
        min_points=config.min_points,
    )
    rules.check()
    config = with_absolute_uris(config)
    exports = list(zip(config.export[::2], config.export[1::2], strict=False))
    matched = finished_run(config.matches)
    named = bool(exports) and have_names(matched, config.pairs)
    check_exports(config.export, named=named)
    for line in make_labels(
        config.out,
        config.pairs,
        config.matches,
        rules=rules,
        calibration_uri=config.calibration,
        agree=config.agree,
        check_images=config.check_images,
    ):
        print(line, flush=True)
    if config.page is not None:
        from pipeline.report.labels_page import render_labels  # imports torch

        page = render_labels(config.out, image_root=matched.image_root)
        storage.write_bytes(config.page, page.encode())
        print(f"wrote {config.page}", flush=True)
    for form, folder in exports:
        for line in export_labels(form, config.out, folder, named=named, image_root=matched.image_root):
            print(line, flush=True)
    return config.out


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
