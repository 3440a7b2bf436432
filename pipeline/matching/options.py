"""The settings of matching."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from pipeline.matching.points import AskedPoints

OUTPUTS = ("keypoints", "flow", "confidence", "cycle", "margin", "scores")
"""The outputs that a run may store: the reference points, the dense flow, the confidence of either; the cycle error:
how far, in pixels, a point is from itself after it was matched there and back (which doubles the work); the
margin: how far the answer's score is ahead of the best one elsewhere; and the best scores of each labelled keypoint
near its true match and elsewhere (which doubles the work too)."""

CropTo = Literal["none", "boxes"]
"""What images are cropped to before they are matched: nothing, or the boxes of the manifest."""
CROPS = get_args(CropTo)
BOX_MARGIN = 0.15
"""A box is widened by this share of its longer side, on each side, before an image is cropped to it."""

THREADS = 1
"""Computing threads of torch wherever pairs are matched: a match may change with them in its last bits."""

MATCH_MEMORY = 3 * 2**29
"""Bytes of memory for a process that matches, as measured: 1.5 GiB."""


@dataclass(frozen=True, kw_only=True)
class MatchOptions:
    """The options of matching pairs. All but batch_pairs change the result."""

    directions: tuple[str, ...] = ("source_to_target",)
    outputs: tuple[str, ...] = ("keypoints", "confidence")
    points: AskedPoints = field(default_factory=AskedPoints)
    crop: CropTo = "none"
    batch_pairs: int = 128
    """Pairs given to the matcher at once."""


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """The settings of a match job that its processes need; plain values, since they are pickled to every worker."""

    matcher: str
    """Name of the matcher, as nemf.load_matcher takes it."""
    backbone_weights: str | None = None
    """Local safetensors file of backbone weights; None for the library's own."""
    image_root: str | None = None
    """Folder, path or URI, of the manifest's relative image URIs."""
    allow_prefix: tuple[str, ...] = ()
    """Folders, paths or URIs, that images must be below; empty for anywhere."""
    answer_timeout: float = 600.0
    """Seconds that a matcher may take to return the match of a pair before the pair is quarantined."""
    gpus_per_worker: float = 1.0
    """GPUs of each matching process; ignored on CPUs."""
    options: MatchOptions = field(default_factory=MatchOptions)
