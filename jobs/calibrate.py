"""Learn from annotated pairs how probable it is that a match is right.

    nemf calibrate --matches runs/x --pairs labelled.parquet --out calibration.json

Reads the matches of annotated pairs and writes a small JSON file for nemf pseudo-label: how the signals of a match
(confidence, margin, cycle error, its neighbours' displacement, another run's answer) become a probability. It is valid
for this matcher with these weights. What it prints is cross-fitted: no image judges itself. Seconds for thousands of
pairs; docs/pseudo-labels.md.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from jobs.command import Names, run_command
from pipeline.evaluation.bootstrap import REPLICATES, BootstrapWeights
from pipeline.evaluation.protocols import protocol
from pipeline.io import storage
from pipeline.io.manifest import Manifest
from pipeline.io.uri_field import Uri
from pipeline.runs.folder import refuse_files_of_runs
from pipeline.runs.parts import read_matches
from pipeline.runs.selection import is_other_manifest, planned_pairs


@dataclass(frozen=True, kw_only=True)
class Config:
    """The annotated matches, and the file to write."""

    matches: Uri
    """Finished run of `nemf match` over the annotated pairs, with the outputs that the run to be labelled has."""
    pairs: Uri
    """The annotated PAIRS manifest that was matched."""
    out: Uri
    """JSON file to write."""
    protocol: str = "spair"
    """The protocol that says what T is; see `nemf evaluate`."""
    alpha: float = 0.1
    """A match is right if its error is at most this share of T."""
    agree: Uri | None = None
    """Run of another matcher over the same pairs; agreement with its answers is a signal."""
    signals: Names = ()
    """Signals to judge by, of confidence, margin, cycle, neighbours, pair, agreement; default: all that the matches
    have."""


def run(config: Config) -> str:
    """Write the calibration; returns its path. Raises ValueError and OSError for bad input."""
    # evaluation and scikit-learn take a second to import
    from pipeline.pseudo_labels.calibration_quality import quality, text
    from pipeline.pseudo_labels.finished_run import finished_run
    from pipeline.pseudo_labels.fit_calibration import cross_fitted_probability, fit_calibration
    from pipeline.pseudo_labels.judged_points import MATCH_COLUMNS, judged_points
    from pipeline.pseudo_labels.signals import SIGNALS, describe_absent

    storage.refuse_overwrite(config.out, config.matches, config.pairs)
    refuse_files_of_runs(config.out, config.matches, *([config.agree] if config.agree else []))
    if not 0 < config.alpha <= 1:
        raise ValueError(f"--alpha must be above 0 and at most 1; got {config.alpha}")
    if unknown := [name for name in config.signals if name not in SIGNALS]:
        raise ValueError(f"--signals are {', '.join(SIGNALS)}; got {', '.join(unknown)}")
    matched = finished_run(config.matches)
    with Manifest(config.pairs) as manifest:
        if is_other_manifest(manifest, config.matches):
            raise ValueError(f"{config.matches} was matched with another manifest than {config.pairs}")
        pairs, digest = planned_pairs(manifest, config.matches), manifest.digest()
    others = None if config.agree is None else read_matches(config.agree, MATCH_COLUMNS)
    points = judged_points(
        read_matches(config.matches, MATCH_COLUMNS), pairs, protocol(config.protocol), config.alpha, others
    )
    wanted = config.signals or tuple(points.values)
    if absent := [name for name in wanted if name not in points.values]:
        how = ", ".join(describe_absent([name for name in SIGNALS if name not in absent]))
        raise ValueError(f"{config.matches} has no signal {how}")
    values = {name: points.values[name] for name in SIGNALS if name in wanted}
    probability = cross_fitted_probability(values, points.correct, points.source, points.target, points.counts)
    judged = ~np.isnan(probability)
    made_on: dict[str, Any] = {
        "manifest": config.pairs.rpartition("/")[2],
        "manifest_digest": digest,
        "datasets": pc.unique(pairs["dataset"]).drop_null().to_pylist(),
        "categories": sorted(pc.unique(pairs["category"]).drop_null().to_pylist())[:100],
        "run_fingerprint": matched.fingerprint,
        "n_pairs": int(np.count_nonzero(points.counts)),
        "n_images": len(np.unique(np.concatenate([points.source, points.target]))),
        "n_points": len(points.correct),
        "share_right": float(points.correct.mean()) if len(points.correct) else 0.0,
    }
    pair = np.repeat(np.arange(len(points.counts)), points.counts)
    weights = BootstrapWeights(source=points.source, target=points.target, seed=0, n_replicates=REPLICATES)
    numbers = quality(probability[judged], points.correct[judged], pair[judged], weights) if judged.any() else {}
    calibration = fit_calibration(
        values,
        points.correct,
        matcher=matched.config["matcher"],
        matcher_fingerprint=matched.matcher_fingerprint,
        alpha=config.alpha,
        protocol=config.protocol,
        made_on=made_on,
        quality=numbers,
    )
    storage.write_bytes(config.out, calibration.as_json().encode())
    print(f"signals: {', '.join(values)}; absent: {', '.join(describe_absent(tuple(values))) or 'none'}")
    print(text(numbers) if numbers else "too few images to judge it on others than it was made on")
    print(f"\nwrote {config.out}")
    return config.out


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
