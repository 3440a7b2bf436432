"""Match every pair of a manifest, and resume after interruptions.

    nemf match --pairs pairs.parquet --out runs/x --matcher nemf-small

Writes MATCHES parts below --out and _SUCCESS at the end. Run the same command again after any interruption: it matches
the pairs that have no result yet, and again those that ended as errors. Processes of this machine do it, one a core at
most, or those of a Ray cluster at --address. Cost: some 4 s to start, then what the matcher costs; see
docs/measured.md. `python -m jobs.match` is the same command.
"""

import importlib.metadata
import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pyarrow as pa
import tyro

import nemf
from jobs.command import MatcherName, Names, OverBudgetError, Workers, as_json, run_command
from nemf.io.redact import redacted
from pipeline.io.manifest import Manifest
from pipeline.io.uri_allowlist import check_prefixes
from pipeline.io.uri_field import LocalPath, Uri, UriField, with_absolute_uris
from pipeline.matching import reduced
from pipeline.matching.driver import match
from pipeline.matching.local_process import MatcherProcess
from pipeline.matching.local_worker import MatcherFacts
from pipeline.matching.options import BOX_MARGIN, OUTPUTS, CropTo, MatchConfig, MatchOptions
from pipeline.matching.plan import Plan, make_plan
from pipeline.matching.points import parse_points
from pipeline.runs.counts import ALL, NONE, check_retry, max_limit, summary
from pipeline.runs.folder import Run, crop_note, is_finished, open_run, run_fingerprint
from pipeline.runs.lease import acquire, remove_stale_files
from schemas.matches import directions_of

_LONGEST_TIMEOUT = 1e6
"""Maximum of --answer-timeout in seconds; Python's clocks overflow at some thousand years."""
_HEAD_START = 0.5
"""Seconds after which Ray starts beside the loading of the matcher: most errors have come by then."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The pairs, the run folder, the matcher, and how to run it."""

    pairs: Uri
    """PAIRS manifest: a .parquet file or a folder of them, path or URI."""
    out: Uri
    """Run folder, path or URI; created, or continued if it holds the same run."""
    matcher: MatcherName = "nemf-small"
    backbone_weights: LocalPath | None = None
    """Local safetensors file of weights, as timm or torchvision publish them; default: the library's own."""
    image_root: Uri | None = None
    """Folder, path or URI, of the manifest's relative image URIs."""
    allow_prefix: Annotated[Names, UriField(verbatim_uris=True)] = ()
    """Folders, paths or URIs, that images must be below, such as s3://mine/images; default: anywhere."""
    outputs: Names = MatchOptions.outputs
    """Results to store: keypoints, flow, confidence, cycle (distance of a point from itself when matched back), margin
    (how far the score of a point's match is ahead of the best one elsewhere), scores (the best of each labelled
    keypoint, near its true match and elsewhere)."""
    points: Annotated[str, tyro.conf.arg(metavar="keypoints|grid:N|salient:N|dense:STRIDE")] = "keypoints"
    """Points of the query to match: the manifest's keypoints, or, in the query's box where the manifest has one, else
    in the image: grid:N for the centres of N x N cells, salient:N for the N places that stand out most to the matcher,
    dense:STRIDE for every STRIDE-th pixel; at most 10,000."""
    direction: Literal["source_to_target", "target_to_source", "both"] = "source_to_target"
    """Whose points are matched: source_to_target takes the source's points and finds them in the target; both gives a
    row for each."""
    crop: CropTo = "none"
    """Crop images before they are matched. boxes: each to its box in the manifest and 15 % of the box's longer side on
    each side; a pair without boxes is an error. Only for keypoints; the numbers are of an easier task, and say so."""
    limit: int | None = None
    """Match only the first N pairs; a later run with a larger limit matches the rest."""
    retry: Names = (ALL,)
    """Errors of earlier attempts to match again: all, none, stages (fetch), or kinds (fetch:timeout)."""
    error_budget: float = 0.1
    """Share of pairs that may end as errors before the job exits with code 3."""
    dry_run: bool = False
    """Print what would be done; write nothing and start nothing."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to match on; auto: GPUs if there are any."""
    workers: Annotated[Workers | None, tyro.conf.arg(metavar="N|MIN,MAX")] = None
    """Number of matching processes, or their least and largest number; default: one per core, or per GPU. Without a Ray
    cluster only so many of them are started as there is work for."""
    gpus_per_worker: float = 1.0
    """GPUs of each matching process, 0.5 for two that share one; ignored on CPUs. Does not change results."""
    slice_pairs: int = 128
    """Pairs matched and committed together; a crash can lose their results. Does not change results."""
    batch_pairs: int = MatchOptions.batch_pairs
    """Pairs given to the matcher at once. Does not change results."""
    answer_timeout: float = 600.0
    """Seconds that a matcher may take to return the match of a pair before the pair is quarantined."""
    address: str | None = None
    """Ray cluster to run on; local: an embedded one on this machine. Default: RAY_ADDRESS, else processes of this
    machine without Ray."""

    def check(self) -> None:
        """Raises ValueError for settings out of range."""
        unknown = [name for name in self.outputs if name not in OUTPUTS]
        if unknown or not {"keypoints", "flow"} & set(self.outputs):
            raise ValueError(
                f"--outputs must name keypoints or flow, and otherwise be among {', '.join(OUTPUTS)}; "
                f"got {', '.join(self.outputs) or 'none'}"
            )
        for name in ("cycle", "margin"):
            if name in self.outputs and "keypoints" not in self.outputs:
                raise ValueError(f"--outputs {name} is about keypoints: ask for both")
        if parse_points(self.points).shaping and "keypoints" not in self.outputs:
            raise ValueError(f"--points {self.points} is about keypoints: ask for --outputs keypoints too")
        if self.crop != "none" and "flow" in self.outputs:
            raise ValueError(f"--crop {self.crop} is about keypoints: a crop has no flow of the whole image")
        for name in ("limit", "slice_pairs", "batch_pairs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {value}")
        if self.workers and not 1 <= self.workers[0] <= self.workers[1]:
            raise ValueError(f"--workers is N or MIN,MAX, from 1 up; got {self.workers[0]},{self.workers[1]}")
        if not self.gpus_per_worker > 0 or (self.gpus_per_worker > 1 and self.gpus_per_worker % 1):
            raise ValueError(f"--gpus-per-worker is a share of one GPU or a whole number; got {self.gpus_per_worker}")
        check_retry("--retry", self.retry)
        if not 0 < self.answer_timeout <= _LONGEST_TIMEOUT:
            raise ValueError(
                f"--answer-timeout is a number of seconds, above 0 and at most {_LONGEST_TIMEOUT:g}; "
                f"got {self.answer_timeout}"
            )
        check_prefixes(self.allow_prefix)
        if not 0 <= self.error_budget <= 1:
            raise ValueError(f"--error-budget is a share, 0..1; got {self.error_budget}")

    @property
    def options(self) -> MatchOptions:
        """The options of the matching stage; outputs in canonical order, so that their order makes no difference."""
        return MatchOptions(
            directions=directions_of(self.direction),
            outputs=tuple(name for name in OUTPUTS if name in self.outputs),
            points=parse_points(self.points),
            crop=self.crop,
            batch_pairs=self.batch_pairs,
        )

    @property
    def is_on_ray(self) -> bool:
        """Whether Ray is to do it: one was named."""
        return bool(self.address or os.environ.get("RAY_ADDRESS"))

    @property
    def matching(self) -> MatchConfig:
        """The settings that the matching processes need."""
        return MatchConfig(
            matcher=self.matcher,
            backbone_weights=self.backbone_weights,
            image_root=self.image_root,
            allow_prefix=self.allow_prefix,
            answer_timeout=self.answer_timeout,
            gpus_per_worker=self.gpus_per_worker,
            options=self.options,
        )


def run(config: Config) -> str:
    """Match, and return the run folder.

    Raises ValueError or OSError for bad input, OverBudgetError when more pairs failed than allowed, ClusterError when
    Ray failed, and KeyboardInterrupt after a signal; committed results stay in every case.
    """
    config.check()
    config = with_absolute_uris(config)
    with (
        Manifest(config.pairs) as manifest,
        MatcherProcess(config.matching, "cpu" if config.is_on_ray or config.dry_run else config.device) as process,
        _Ray(config.address) as ray,
    ):
        return _run(config, manifest, process, ray)


class _Ray(ExitStack):
    """Ray, joined on demand and left with the block."""

    def __init__(self, address: str | None) -> None:
        super().__init__()
        self._address = address
        self._is_joined = False

    def join(self) -> None:
        """Join it, if that was not done before; raises as pipeline.cluster.connect.connected does."""
        # Ray takes seconds to import, and a finished run needs none of it
        from pipeline.cluster.connect import connected

        if not self._is_joined:
            self.enter_context(connected(self._address))
            self._is_joined = True


def _run(config: Config, manifest: Manifest, process: MatcherProcess, ray: _Ray) -> str:
    ids, digest = manifest.ids(), manifest.digest()
    if config.is_on_ray and not config.dry_run and not is_finished(config.out) and not process.is_loaded(_HEAD_START):
        ray.join()  # beside the loading of the matcher
    description = _describe(config, digest, process.facts())
    if config.is_on_ray:
        process.close()
    run_folder = open_run(config.out, description, dry_run=config.dry_run)
    if config.dry_run:
        print(_plan_text(config, _plan(config, run_folder, manifest, ids, config.limit)[0], run_folder.fingerprint))
        return config.out
    lease = acquire(config.out, job="match")
    try:
        requested = max_limit(config.limit, run_folder.requested_limit())
        plan, settled = _plan(config, run_folder, manifest, ids, requested)
        manifest.close()
        n_rows = len(ids.slice(0, requested)) * len(run_folder.directions)
        lease.plan(n_rows, settled)
        lease.events.record("planned", rows=n_rows, settled=settled, slices=len(plan.slices))
        print(_plan_text(config, plan, run_folder.fingerprint))
        finished = run_folder.success()
        if plan.slices:
            run_folder.reopen()
            if config.is_on_ray:
                ray.join()
            with ray:
                match(
                    config.matching,
                    plan,
                    run_folder,
                    lease,
                    local=None if config.is_on_ray else process,
                    device=config.device,
                    workers=config.workers,
                )
            process.close()
        count = run_folder.count(ids, requested)
        if count.missing:  # an earlier attempt had a larger --limit and never finished
            count = run_folder.count(ids, max_limit(config.limit, finished["limit"]) if finished else config.limit)
        remove_stale_files(config.out)
        run_folder.finish(count)
        over_budget = count.error > config.error_budget * count.expected
        lease.events.record("counted", ok=count.ok, errors=count.error, over_error_budget=over_budget)
    finally:
        lease.release()
    print(redacted(summary(config.out, count)))
    if over_budget:
        raise OverBudgetError(
            f"{count.error} of {count.expected} rows are errors, more than the error budget of "
            f"{config.error_budget:g}; the others are in {config.out}"
        )
    return config.out


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _describe(config: Config, manifest_digest: str, matcher: MatcherFacts) -> dict[str, Any]:
    """The content of run.json without the run's id.

    Raises ValueError where the matcher has no descriptors to choose the points by.
    """
    points = config.options.points
    if matcher.has_salience is False:
        raise ValueError(
            f"--points {config.points} needs a matcher with descriptors, and {config.matcher} has none: take grid:N, "
            "or another matcher, such as nemf-small"
        )
    shaping: dict[str, Any] = {"directions": config.options.directions, "outputs": config.options.outputs}
    shaping |= points.shaping
    if config.crop != "none":  # not always: runs of whole images keep their fingerprints
        shaping |= {"crop": config.crop, "box_margin": BOX_MARGIN}
    side = reduced.reduced_side(matcher.squashed_side, config.options.outputs, config.crop)
    shaping |= reduced.shaping(side)
    return {
        "fingerprint": run_fingerprint(matcher.fingerprint, shaping),
        "manifest_digest": manifest_digest,
        "image_root": config.image_root and redacted(config.image_root),
        "matcher_fingerprint": matcher.fingerprint,
        "reduced_side": side,
        "config": as_json(config),
        "versions": _versions(),
    }


def _plan(
    config: Config, run_folder: Run, manifest: Manifest, ids: pa.ChunkedArray, requested: int | None
) -> tuple[Plan, dict[str, int]]:
    """The plan for the first `config.limit` pairs, and the settled rows of the first `requested`, by reason."""
    planned, others = ids.slice(0, config.limit), ids.slice(0, requested).slice(len(ids.slice(0, config.limit)))
    completed = run_folder.completed(planned, config.retry)
    settled = Counter(completed.reasons)
    if len(others):  # pairs that only an earlier attempt's --limit covers: their errors are not tried again
        settled.update(run_folder.completed(others, (NONE,)).reasons)
    return make_plan(manifest, planned, completed.ids, slice_pairs=config.slice_pairs), dict(settled)


def _plan_text(config: Config, plan: Plan, fingerprint: str) -> str:
    return redacted(
        f"{config.pairs} -> {config.out}\n"
        f"matcher {config.matcher}, run fingerprint {fingerprint}, {', '.join(config.options.directions)}, "
        f"outputs {', '.join(config.options.outputs)}, points {config.points}{crop_note(config.crop)}\n"
        f"{plan.n_pairs} pairs: {plan.n_done} done, {plan.n_left} to do in {len(plan.slices)} slices"
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "timm", "kornia", "numpy", "pillow", "pyarrow", "ray")
    ours = {"python": platform.python_version(), "nemf": nemf.__version__}
    return ours | {name: importlib.metadata.version(name) for name in packages}


if __name__ == "__main__":
    sys.exit(main())
