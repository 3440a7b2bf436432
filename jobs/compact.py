"""Merge the many small parts of a run into few large, sorted ones.

    nemf compact runs/x

Superseded rows are dropped. The run may be finished or not, but no attempt may be running: compaction holds the run
folder as an attempt does. If it is killed at any point, run it again. Cost: reads and writes the run once; the
temporary folder (TMPDIR) needs as much room as the run, memory some four times --target-mb and the keys of all rows.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from jobs.command import run_command
from pipeline.io import storage
from pipeline.io.uri_field import Uri
from pipeline.runs.compact import compact, plan_compaction
from pipeline.runs.folder import read_run
from pipeline.runs.lease import acquire


@dataclass(frozen=True, kw_only=True)
class Config:
    """The run, and the size of its parts."""

    out: tyro.conf.Positional[Uri]
    """Run folder, path or URI."""
    target_mb: int = 128
    """Approximate size of a part in MB."""


def run(config: Config) -> int:
    """Compact the run; returns the number of parts after it.

    Raises ValueError for bad input and while an attempt is running; FileNotFoundError if `out` is no run.
    """
    if not 1 <= config.target_mb <= 1024:
        raise ValueError(f"--target-mb must be 1 to 1024; got {config.target_mb}")
    out = storage.absolute(config.out)
    run_folder = read_run(out)
    lease = acquire(out, job="compact")
    try:
        plan = plan_compaction(run_folder, config.target_mb * 2**20)
        if not plan.is_needed:
            print(f"{out}: {len(plan.sizes)} parts, sorted and large enough: nothing to compact")
            return len(plan.sizes)
        parts = compact(run_folder, plan)
        lease.events.record("compacted", parts_before=len(plan.sizes), parts=len(parts), superseded=plan.n_superseded)
    finally:
        lease.release()
    before, after = sum(plan.sizes.values()), sum(part.n_bytes for part in parts)
    print(
        f"{out}: {len(plan.sizes)} parts of {before / 2**20:.1f} MB -> {len(parts)} of {after / 2**20:.1f} MB; "
        f"{len(plan.bucket) - plan.n_superseded} rows, {plan.n_superseded} superseded ones dropped"
    )
    return len(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
