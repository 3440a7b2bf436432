"""The pairs of a manifest that are scored: those that the run was to match, at the points of the manifest."""

import pyarrow as pa

from pipeline.io.manifest import Manifest
from pipeline.runs.folder import KEYPOINTS, read_run


def planned_limit(manifest: Manifest, matches_uri: str) -> int | None:
    """The number of pairs, the first ones of the manifest, that the matches cover: their run's limit; None for all.

    matches_uri: a run folder, or anything else that holds MATCHES, which is taken to be of all pairs.
    Raises ValueError if the run has a limit and was made from another manifest, whose first pairs are others.
    """
    try:
        run = read_run(matches_uri)
    except FileNotFoundError:
        return None
    limit = run.limit()
    if limit is not None and manifest.digest() != run.manifest_digest:
        raise ValueError(
            f"{matches_uri} is of the first {limit} pairs of its manifest, and {manifest.uri} is not that manifest: "
            f"give {run.config['pairs']}, or match without --limit"
        )
    return limit


def is_other_manifest(manifest: Manifest, matches_uri: str) -> bool:
    """Whether the matches are of a run that was made from a manifest of other content."""
    try:
        run = read_run(matches_uri)
    except FileNotFoundError:
        return False
    return manifest.digest() != run.manifest_digest


def planned_pairs(manifest: Manifest, matches_uri: str) -> pa.Table:
    """The PAIRS rows, without inline images, of the first planned_limit pairs of the manifest."""
    return manifest.read().slice(0, planned_limit(manifest, matches_uri))


def planned_count(manifest: Manifest, matches_uri: str) -> int:
    """The number of rows of planned_pairs, without reading them."""
    limit = planned_limit(manifest, matches_uri)
    return manifest.n_pairs if limit is None else min(manifest.n_pairs, limit)


def refuse_other_points(matches_uri: str) -> None:
    """Raises ValueError for a run that was asked other points than the manifest's, whose truth nobody knows.

    matches_uri: a run folder, or anything else that holds MATCHES, which is taken to be at the manifest's points.
    """
    try:
        points = read_run(matches_uri).points
    except FileNotFoundError:
        return
    if points != KEYPOINTS:
        raise ValueError(
            f"{matches_uri} was matched at --points {points}, not at the manifest's keypoints: there is no truth to "
            "score its points against; match with --points keypoints into a new folder"
        )
