"""Errors of Ray itself, which neither the user nor this code causes."""


class ClusterError(RuntimeError):
    """Ray, or a process it started, failed; what was committed is kept."""
