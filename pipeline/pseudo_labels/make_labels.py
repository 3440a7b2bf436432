"""From a run to a manifest of labels, in steps whose memory does not grow with the points of the run.

1. What is held of every pair: pair_index.   2. The labels of every part with their probability: scored_parts.
3. The threshold, from counts of all labels: selection.   4. The labels above it, as PAIRS: labels.

One process is enough: a million pairs of 16 points take minutes, less than Ray takes to pay for itself.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from nemf import pretrained
from pipeline.io import storage
from pipeline.io.manifest import Manifest
from pipeline.pseudo_labels.calibration import PROBABILITY_STEPS, Calibration, read_calibration
from pipeline.pseudo_labels.finished_run import finished_run
from pipeline.pseudo_labels.labels import ScoredRows, write_labels
from pipeline.pseudo_labels.other_run import OtherRun
from pipeline.pseudo_labels.pair_index import PairIndex, choose_rows, index_pairs
from pipeline.pseudo_labels.scored_parts import ScoringTask, hold, remove_scored, score_parts
from pipeline.pseudo_labels.selection import NoLabelsError, Rules
from pipeline.pseudo_labels.signals import SIGNALS, describe_absent, signals_of_run
from pipeline.runs.folder import Run
from pipeline.runs.parts import part_sizes


def make_labels(
    out: str,
    pairs: str,
    matches: str,
    *,
    rules: Rules,
    calibration_uri: str | None = None,
    agree: str | None = None,
    check_images: bool = False,
) -> Iterator[str]:
    """Write the labels to the file `out`; yields lines for people as it goes.

    calibration_uri: None for the one that ships with the matcher. agree: a second run over the same manifest.
    check_images: leave out pairs whose images are not there any more.
    Raises ValueError for runs that are not finished or of another manifest, for a calibration of another matcher or
    other signals, where no label is as good as asked for, and where another process is at work on `out`.
    """
    run = finished_run(matches)
    calibration, note = _calibration(run, calibration_uri)
    if note:
        yield note
    present = signals_of_run(run.config["outputs"], has_other_run=agree is not None)
    calibration.check_signals(present, matches)
    if rules.max_cycle is not None and "cycle" not in present:
        raise ValueError(f"--max-cycle needs {next(describe_absent([*present, *(set(SIGNALS) - {'cycle'})]))}")
    yield f"signals: {', '.join(calibration.signals)}"
    other = None if agree is None else finished_run(agree)
    with Manifest(pairs) as manifest:
        if manifest.digest() != run.manifest_digest:
            raise ValueError(f"{matches} was matched with another manifest than {pairs}: {run.config['pairs']}")
        if other and other.manifest_digest != run.manifest_digest:
            raise ValueError(f"--agree {agree} was matched with another manifest than {matches}")
        index = index_pairs(manifest, run.limit(), check_images=check_images, image_root=run.image_root)
        sizes = part_sizes(run.out)
        chosen = choose_rows(sizes, index, run.fingerprint)
        n_lacking = len(index.order) * len(run.directions) - sum(chosen.reasons.values())
        if n_lacking:
            yield (
                f"warning: {matches} lacks {n_lacking} of its rows, which have no labels: nemf verify {matches} "
                "names them, the same nemf match again makes them"
            )
        made_of = _made_of(run, calibration, rules, other, index)
        task = ScoringTask(
            sizes=sizes,
            index=index,
            chosen=chosen,
            present=present,
            calibration=calibration,
            rules=rules,
            other=None if other is None else OtherRun(other, index),
        )
        work = f"{out}.work"
        with hold(work):
            scored = ScoredRows(score_parts(work, task, made_of))
            counts = scored.count(rules.min_points)
            try:
                threshold = counts.threshold(rules.precision, rules.min_probability)
            except NoLabelsError as error:
                raise NoLabelsError(f"{matches}: {error}") from None
            n_labels, n_right = counts.kept(threshold)
            provenance = {
                "matcher": run.config["matcher"],
                "fingerprint": run.fingerprint,
                "matcher_fingerprint": run.matcher_fingerprint,
                "run": matches,
                "run_id": run.run_id,
                "points": run.points,
                "manifest": pairs,
                "manifest_digest": run.manifest_digest,
                "calibration": calibration_uri or "shipped",
                "calibration_digest": made_of["calibration"],
                "calibration_made_on": dict(calibration.made_on),
                "signals": list(calibration.signals),
                "agree": agree,
                "alpha": calibration.alpha,
                "protocol": calibration.protocol,
                **asdict(rules),
                "threshold": threshold / PROBABILITY_STEPS,
                "expected_precision": n_right / n_labels,
                "n_labels": n_labels,
                "expected_right": n_right,
                "n_judged": int(counts.labels.sum()),
            }
            written = write_labels(
                out,
                manifest,
                scored,
                threshold=threshold,
                min_points=rules.min_points,
                both_directions=len(run.directions) > 1,
                provenance=provenance,
            )
            remove_scored(work)
    assert written.n_labels == n_labels, "the labels written are those that were counted"
    yield (
        f"{n_labels} labels of {written.n_pairs} pairs, of probability {threshold / PROBABILITY_STEPS:.4f} and more: "
        f"{n_right:.1f} are expected to be right, {n_right / n_labels:.1%}"
    )
    n_ok = chosen.reasons.get("ok", 0)
    left_out = {reason: n for reason, n in chosen.reasons.items() if reason != "ok"}
    left_out["no points, or none within --max-cycle"] = n_ok - scored.n_rows
    for reason, n in {**left_out, **written.dropped}.items():
        if n:
            yield f"  {n:>8} pairs without labels: {reason}"
    storage.delete(work)
    yield f"wrote {out}"


def _calibration(run: Run, uri: str | None) -> tuple[Calibration, str]:
    """The calibration to use, and a warning if it is a shipped one. Raises ValueError if there is none that fits."""
    name = run.config["matcher"]
    if uri is not None:
        calibration = read_calibration(uri)
        calibration.check_matcher(name, run.matcher_fingerprint, run.out)
        return calibration, ""
    for shipped in pretrained.NAMES:
        file = str(pretrained.folder(shipped) / "calibration.json")
        if storage.exists(file):
            calibration = read_calibration(file)
            if calibration.matcher_fingerprint == run.matcher_fingerprint:
                made_on = calibration.made_on
                datasets, categories = (
                    ", ".join(map(str, made_on.get(name) or ["?"])) for name in ("datasets", "categories")
                )
                return calibration, (
                    f"warning: the calibration that ships with {shipped} was made on {made_on.get('n_pairs')} pairs of "
                    f"{datasets} ({categories}); "
                    "on other images its probabilities may be wrong: make your own with nemf calibrate"
                )
    raise ValueError(
        f"no calibration ships with {name} (fingerprint {run.matcher_fingerprint}): make one on annotated pairs with "
        "nemf match and nemf calibrate --matches RUN --pairs LABELLED --out calibration.json, and give --calibration"
    )


def _made_of(run: Run, calibration: Calibration, rules: Rules, other: Run | None, index: PairIndex) -> dict[str, Any]:
    """What the scored labels depend on; the threshold is chosen later."""
    return {
        "run": _identity(run),
        "manifest": run.manifest_digest,
        "calibration": hashlib.sha256(calibration.as_json().encode()).hexdigest()[:16],
        "max_cycle": rules.max_cycle,
        "per_pair": rules.per_pair,
        "lacks_image": hashlib.sha256(index.lacks_image.tobytes()).hexdigest()[:16],
        "agree": other and _identity(other),
    }


def _identity(run: Run) -> list[str | None]:
    """What changes where the rows of a run do."""
    return [run.run_id, run.fingerprint, (run.success() or {}).get("rows_digest")]
