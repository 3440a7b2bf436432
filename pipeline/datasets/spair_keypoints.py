"""SPair-71k's keypoint ids: which look alike, and which are each other's mirror image.

Ids are those of ImageAnnotation and of kps_ids. The groups are those of the geometry-aware subset of Zhang et al.
(Telling Left from Right, CVPR 2024), the pairs those that a mirrored image swaps: both as in their repository,
Junyi42/GeoAware-SC, utils/utils_geoware.py at 166f873. The ids 8 and 9 of bus do not occur.
"""

_GROUPS = {
    "aeroplane": "4-5 6-7 8-9 10-11 12-13 14-15 16-17 18-19 20-21",
    "bicycle": "2-3 6-7 9-10",
    "bird": "1-2 10-11 12-13 14-15",
    "boat": "1-2 3-4 5-6 7-8 9-10 11-12",
    "bottle": "0-1 2-3 4-5 6-7 8-9",
    "bus": "0-1 2-3-5-6 4-7 10-13-20-23 11-14-21-24 12-15-22-25 16-17-26-27 18-19-28-29",
    "car": "0-1 2-3-6-7 4-8 5-9 10-13-20-23 11-14-21-24 12-15-22-25 16-17-26-27 18-19-28-29",
    "cat": "2-3 9-10-11-12",
    "chair": "0-1 2-3 4-5-6-7 8-9 10-11 12-13",
    "cow": "2-3 9-10-11-12 15-16-17-18 19-20",
    "dog": "2-3 9-10-11-12",
    "horse": "2-3 10-11-12-13 16-17-18-19",
    "motorbike": "0-1 2-3",
    "person": "8-9 10-11 12-13 14-15 16-17 18-19",
    "pottedplant": "0-1-2-3 4-5 6-8",
    "sheep": "2-3 9-10-11-12 15-16-17-18 19-20",
    "train": "0-1 2-3 4-5 6-7 8-9 10-11 12-13 14-15 16-17",
    "tvmonitor": "0-2-4-6 1-3-5-7 8-10-12-14 9-11-13-15",
}
"""By category: ids joined by '-', groups apart by a space."""
_MIRRORED = {
    "aeroplane": "5-4 7-6 9-8 11-10 13-12 15-14 17-16 19-18 21-20",
    "bicycle": "3-2 7-6 10-9",
    "bird": "2-1 5-4 8-7 11-10 13-12 15-14",
    "boat": "2-1 4-3 6-5 8-7 10-9 12-11",
    "bottle": "0-1 2-3 4-5 6-7 8-9",
    "bus": "1-0 3-2 6-5 20-10 23-13 21-11 24-14 22-12 25-15 17-16 27-26 19-18 29-28",
    "car": "1-0 3-2 7-6 20-10 23-13 21-11 24-14 22-12 25-15 17-16 27-26 19-18 29-28",
    "cat": "1-0 3-2 5-4 7-6 10-9 12-11",
    "chair": "1-0 3-2 5-4 7-6 9-8 11-10 13-12",
    "cow": "1-0 3-2 5-4 7-6 10-9 12-11 16-15 18-17 20-19",
    "dog": "1-0 3-2 5-4 10-9 12-11",
    "horse": "1-0 3-2 5-4 7-6 11-10 13-12 17-16 19-18",
    "motorbike": "1-0 3-2",
    "person": "1-0 3-2 9-8 11-10 13-12 15-14 17-16 19-18",
    "pottedplant": "2-0 5-4 8-6",
    "sheep": "1-0 3-2 5-4 7-6 10-9 12-11 16-15 18-17 20-19",
    "train": "0-1 2-3 4-5 6-7 8-9 10-11 12-13 14-15 16-17",
    "tvmonitor": "2-0 6-4 7-3 10-8 14-12 15-11",
}
"""By category: LEFT-RIGHT, pairs apart by a space."""


def geometry_groups(category: str) -> list[list[str]] | None:
    """The groups of ids that look alike; None for a category that SPair-71k does not have."""
    return [group.split("-") for group in _GROUPS[category].split()] if category in _GROUPS else None


def mirror_keypoint_ids(category: str) -> list[tuple[str, str]] | None:
    """The pairs (left, right) of ids; None for a category that SPair-71k does not have."""
    if category not in _MIRRORED:
        return None
    return [(left, right) for left, _, right in (pair.partition("-") for pair in _MIRRORED[category].split())]
