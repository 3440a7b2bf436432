"""Searching a score for its maximum. Knows a ScoreFn and coordinates, never the network behind it."""
