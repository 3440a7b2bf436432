"""What an attempt lost, as news for its event log: processes that died at their work, pairs that were set aside."""

from pipeline.io import storage
from pipeline.runs.lease import Lease
from pipeline.runs.quarantine import DIED


class Casualties:
    """Looks for what is new since it looked last."""

    def __init__(self, out: str, lease: Lease) -> None:
        self._quarantine = storage.join(out, "quarantine")
        self._lease = lease
        self._known = storage.file_names(self._quarantine)

    def look(self) -> None:
        """Say in the event log what is new. Costs two listings."""
        for note in self._new(self._lease.begun_folder):
            if note.startswith(DIED):
                self._lease.events.say("worker_died", work=note.removeprefix(DIED))
        for name in self._new(self._quarantine):
            if not name.endswith(".json"):
                continue
            self._lease.events.say("quarantined", **storage.read_json(storage.join(self._quarantine, name)))

    def _new(self, folder: str) -> list[str]:
        names = storage.file_names(folder) - self._known
        self._known |= names
        return sorted(name for name in names if not name.startswith("."))
