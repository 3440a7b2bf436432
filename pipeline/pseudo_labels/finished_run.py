"""The run that labels are made of, checked."""

from pipeline.runs.folder import Run, read_run


def finished_run(uri: str) -> Run:
    """The run in a folder. Raises FileNotFoundError if it is no run folder, ValueError if it is not finished."""
    run = read_run(uri)
    if run.success() is None:
        raise ValueError(f"{uri} is not finished (no _SUCCESS): run the same nemf match again, then this")
    if run.matcher_fingerprint is None:
        raise ValueError(f"{uri} does not say which matcher it is of (matcher_fingerprint in run.json): match again")
    return run
