"""Match those pairs of a run again that ended as errors, with the settings of the run.

    nemf retry-errors runs/x --kinds fetch:timeout,fetch:unavailable

Does the same as the run's own `match` command with `--retry`, without repeating that command's flags; pairs that were
not matched yet are matched too. Cost and exit codes are those of `match`.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from jobs import match
from jobs.command import Names, run_command
from nemf.io.redact import HIDDEN
from pipeline.io import storage
from pipeline.io.manifest import Manifest
from pipeline.io.uri_field import Uri
from pipeline.runs.counts import ALL, NONE, check_retry, is_retried
from pipeline.runs.folder import Run, read_run
from pipeline.runs.lease import acquire


@dataclass(frozen=True, kw_only=True)
class Config:
    """The run, and its errors to try again."""

    out: tyro.conf.Positional[Uri]
    """Run folder, path or URI."""
    kinds: Names = (ALL,)
    """Errors to try again: all, none, stages (fetch), or kinds (fetch:timeout)."""
    quarantine: bool = False
    """Also try again the pairs that killed or hung their process: empties the quarantine."""
    pairs: Uri | None = None
    """The manifest, if it is no longer where the run found it."""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else an embedded one on this machine."""


def run(config: Config) -> str:
    """Match again; returns the run folder. Raises as jobs.match.run does, and ValueError if the run has no such
    errors."""
    out = storage.absolute(config.out)
    kinds = (*config.kinds, "worker") if config.quarantine else config.kinds
    check_retry("--kinds", kinds)
    run_folder = read_run(out)
    settings = _settings({**run_folder.config, **({"pairs": config.pairs} if config.pairs else {})})
    # a pair in quarantine may have no row yet: its attempt may have died before the commit
    named = [kind for kind in config.kinds if kind not in (ALL, NONE) and not (config.quarantine and kind == "worker")]
    if named:
        _check_errors_exist(run_folder, settings.pairs, named)
    limit = run_folder.limit()
    if config.quarantine:
        lease = acquire(out, job="retry-errors")  # refused while an attempt is running
        storage.delete(storage.join(out, "quarantine"))
        lease.release()
    return match.run(dataclasses.replace(settings, out=out, retry=kinds, limit=limit, address=config.address))


def _check_errors_exist(run_folder: Run, pairs: str, kinds: Sequence[str]) -> None:
    """Raises ValueError naming the run's errors if one of `kinds` is not among them: a typing error, most likely."""
    with Manifest(pairs) as manifest:
        reasons = run_folder.count(manifest.ids(), run_folder.limit()).reasons
    errors = {reason: n for reason, n in reasons.items() if reason != "ok"}
    absent = [kind for kind in kinds if not any(is_retried(reason, [kind]) for reason in errors)]
    if absent:
        listed = ", ".join(f"{reason.replace(': ', ':')} ({n})" for reason, n in errors.items())
        present = f"it has {listed}" if errors else "the run has no errors"
        raise ValueError(f"{run_folder.out} has no errors {', '.join(absent)}; {present}")


def _settings(recorded: dict[str, Any]) -> match.Config:
    unknown = recorded.keys() - {field.name for field in dataclasses.fields(match.Config)}
    hidden = [name for name, value in recorded.items() if HIDDEN in str(value)]
    if hidden:
        raise ValueError(f"the run's {', '.join(hidden)} held a secret, which is not recorded: use its match command")
    if unknown:
        raise ValueError(
            f"the run was made with settings that this version does not know: {', '.join(sorted(unknown))}; "
            "run its match command with --retry"
        )
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in recorded.items()}
    return match.Config(**values)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
