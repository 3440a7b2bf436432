"""What processes that were killed left in a run folder: removed, once nobody is at work on it but its holder."""

from pipeline.io import storage
from pipeline.runs.lease import read_attempts


def sweep(out: str) -> None:
    """Remove unfinished files, and the notes of what earlier attempts had in hand. The caller holds the run folder."""
    for folder in (out, *(storage.join(out, name) for name in ("parts", "attempts", "quarantine"))):
        storage.remove_temporary_files(folder)
    for attempt in read_attempts(out):
        storage.delete(attempt.file(out, "begun"))
