"""The main job: match every pair of a manifest, durably.

    python -m jobs.match --pairs pairs.parquet --out runs/x --matcher nemf-small

Writes MATCHES parts below --out and _SUCCESS at the end. Run the same command again after any interruption: it goes
on with the pairs that have no answer yet, and asks again for those that ended as errors. Cost: some 15 s to start,
then what the matcher costs; see the README for measured rates.
"""

import importlib.metadata
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
from tqdm import tqdm

import nemf
from jobs.command import Names, OverBudgetError, as_json, run_command
from nemf import load_matcher, pretrained
from nemf.load import is_checkpoint
from pipeline import storage
from pipeline.attempts import Lease, acquire
from pipeline.manifest import manifest_digest, manifest_files, read_ids
from pipeline.options import OUTPUTS, MatchOptions, directions_of
from pipeline.plan import Plan, make_plan
from pipeline.run_folder import (
    check_run,
    committed_ids,
    count_run,
    delete_success,
    open_run,
    read_success,
    run_fingerprint,
    summary,
    wider,
    write_success,
)
from pipeline.stopping import stopping_on_signals


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to match, how, and where the answers go."""

    pairs: str
    """PAIRS manifest: a .parquet file or a folder of them, path or URI."""
    out: str
    """Run folder, path or URI; created, or continued if it holds the same run."""
    matcher: str = "nemf-small"
    """Name of the matcher, see nemf.load_matcher."""
    backbone_weights: str | None = None
    """Local safetensors file of backbone weights, with a .json beside it; default: the library's own."""
    image_root: str | None = None
    """Folder, path or URI, that relative image URIs of the manifest are below."""
    outputs: Names = MatchOptions.outputs
    """What to store: keypoints, flow, confidence, cycle (distance a point lands from itself when matched back)."""
    direction: Literal["source_to_target", "target_to_source", "both"] = "source_to_target"
    """Which image is the query."""
    limit: int | None = None
    """Match only the first N pairs; a later run with a larger limit goes on."""
    error_budget: float = 0.1
    """Share of pairs that may end as errors before the job exits with code 3."""
    dry_run: bool = False
    """Say what would be done; write nothing and start nothing."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to match; auto: on GPUs if the cluster has any."""
    workers: int | None = None
    """Processes that match; default: one per core, or per GPU."""
    slice_pairs: int = 128
    """Pairs matched and committed together: what a crash can cost. Does not change results."""
    batch_pairs: int = MatchOptions.batch_pairs
    """Pairs given to the matcher at once: an image they share is encoded once. Does not change results."""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else an embedded one on this machine."""

    def check(self) -> None:
        """Raises ValueError for settings that cannot be."""
        unknown = [name for name in self.outputs if name not in OUTPUTS]
        if unknown or not {"keypoints", "flow"} & set(self.outputs):
            raise ValueError(
                f"--outputs must name keypoints or flow, and otherwise be among {', '.join(OUTPUTS)}; "
                f"got {', '.join(self.outputs) or 'none'}"
            )
        if "cycle" in self.outputs and "keypoints" not in self.outputs:
            raise ValueError("--outputs cycle is about keypoints: ask for both")
        for name in ("limit", "workers", "slice_pairs", "batch_pairs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {value}")
        if not 0 <= self.error_budget <= 1:
            raise ValueError(f"--error-budget is a share, 0..1; got {self.error_budget}")

    @property
    def options(self) -> MatchOptions:
        """The part that the matching stage needs; outputs in canonical order, so that their order is no difference."""
        return MatchOptions(
            directions=directions_of(self.direction),
            outputs=tuple(name for name in OUTPUTS if name in self.outputs),
            batch_pairs=self.batch_pairs,
        )


def run(config: Config) -> str:
    """Match, and return the run folder.

    Raises ValueError or OSError for what the caller can mend, OverBudgetError when more pairs failed than allowed,
    ClusterError when Ray failed, and KeyboardInterrupt after a signal; what was committed stays in every case.
    """
    config.check()
    config = _with_absolute_paths(config)
    options = config.options
    ids = read_ids(config.pairs)
    description = _describe(config)
    fingerprint = description["fingerprint"]
    if config.dry_run:
        with suppress(FileNotFoundError):
            check_run(config.out, description)
        print(_intent(config, _plan(config, ids, fingerprint), fingerprint))
        return config.out
    run_id = open_run(config.out, description)
    lease = acquire(config.out)
    reasons: Counter[str] = Counter()
    try:
        plan = _plan(config, ids, fingerprint)
        print(_intent(config, plan, fingerprint))
        finished = read_success(config.out)
        limit = wider(config.limit, finished["limit"]) if finished else config.limit
        if plan.slices:
            delete_success(config.out)
            _match_all(config, plan, lease, run_id, fingerprint, reasons)
        count = count_run(config.out, ids, options.directions, fingerprint, limit)
        write_success(config.out, count, limit)
    finally:
        lease.release(dict(reasons))
    print(summary(config.out, count))
    if count.error > config.error_budget * count.expected:
        raise OverBudgetError(
            f"{count.error} of {count.expected} rows are errors, more than the error budget of "
            f"{config.error_budget:g}; the others are in {config.out}"
        )
    return config.out


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _with_absolute_paths(config: Config) -> Config:
    """Paths that mean the same to the workers, which run in folders of their own."""
    return replace(
        config,
        pairs=storage.absolute(config.pairs),
        out=storage.absolute(config.out),
        matcher=_with_absolute_folder(config.matcher),
        image_root=config.image_root and storage.absolute(config.image_root),
        backbone_weights=config.backbone_weights and storage.absolute(config.backbone_weights),
    )


def _with_absolute_folder(matcher: str) -> str:
    prefix = "descriptors:" if matcher.startswith("descriptors:") else ""
    folder = matcher.removeprefix(prefix)
    given = is_checkpoint(folder) and folder.partition("?")[0] not in pretrained.NAMES
    return prefix + storage.absolute(folder) if given else matcher


def _describe(config: Config) -> dict[str, Any]:
    """What run.json is to say; loads the matcher for its fingerprint."""
    matcher = load_matcher(config.matcher, backbone_weights=config.backbone_weights, device="cpu")
    shaping = {"directions": config.options.directions, "outputs": config.options.outputs}
    return {
        "fingerprint": run_fingerprint(matcher.fingerprint, shaping),
        "manifest_digest": manifest_digest(manifest_files(config.pairs)),
        "image_root": config.image_root,
        "matcher_fingerprint": matcher.fingerprint,
        "config": as_json(config),
        "versions": _versions(),
    }


def _plan(config: Config, ids: pa.ChunkedArray, fingerprint: str) -> Plan:
    done = committed_ids(config.out, config.options.directions, fingerprint)
    return make_plan(config.pairs, ids.slice(0, config.limit), done, slice_pairs=config.slice_pairs)


def _match_all(config: Config, plan: Plan, lease: Lease, run_id: str, fingerprint: str, reasons: Counter[str]) -> None:
    """Run the stream over the plan's slices; `reasons` counts committed rows as they come.

    Raises KeyboardInterrupt if a signal asked to stop, once what was in flight is committed.
    """
    # Ray takes seconds to import, and a finished run needs none of it.
    from pipeline.build import Stream, build_stream
    from pipeline.cluster import choose_device, choose_workers, connected

    with connected(config.address):
        device = choose_device(config.device)
        stream = Stream(
            out=config.out,
            run_id=run_id,
            attempt=lease.attempt.number,
            fingerprint=fingerprint,
            stop_file=lease.stop_file,
            begun_folder=lease.begun_folder,
            image_root=config.image_root,
            matcher=config.matcher,
            backbone_weights=config.backbone_weights,
            device=device,
            workers=min(choose_workers(config.workers, device), len(plan.slices)),
            options=config.options,
        )
        total = plan.n_left * len(config.options.directions)
        interval = 0.5 if sys.stderr.isatty() else 10.0
        unit = "pair" if total == plan.n_left else "row"
        with stopping_on_signals(lease) as stopped, tqdm(total=total, unit=unit, mininterval=interval) as progress:
            for row in build_stream(plan.slices, stream).iter_rows():
                reasons[row["reason"]] += row["rows"]
                progress.set_postfix(errors=reasons.total() - reasons["ok"], refresh=False)
                progress.update(row["rows"])
    if stopped.is_set():
        raise KeyboardInterrupt("what was in flight is committed: run the same command again to go on")


def _intent(config: Config, plan: Plan, fingerprint: str) -> str:
    return (
        f"{config.pairs} -> {config.out}\n"
        f"matcher {config.matcher}, run fingerprint {fingerprint}, {', '.join(config.options.directions)}, "
        f"outputs {', '.join(config.options.outputs)}\n"
        f"{plan.n_pairs} pairs: {plan.n_done} done, {plan.n_left} to do in {len(plan.slices)} slices"
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "timm", "kornia", "numpy", "pillow", "pyarrow", "ray")
    ours = {"python": platform.python_version(), "nemf": nemf.__version__}
    return ours | {name: importlib.metadata.version(name) for name in packages}


if __name__ == "__main__":
    sys.exit(main())
