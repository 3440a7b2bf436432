"""What can go wrong that is neither the user's to mend nor a fault in this code."""


class ClusterError(RuntimeError):
    """Ray, or a process it started, failed; what was committed stays."""
