"""The named protocols that a PCK number needs to mean something.

Seven choices fix a number. Two are a protocol's own: the direction and the base T of the threshold alpha T. The other
five are the same in all protocols here: errors are measured in pixels of the original image; a keypoint is correct at
d <= alpha T; all annotated keypoints count, also those outside the image; the headline average is over images, and
the average over keypoints and the unweighted class mean are given beside it.
"""

from dataclasses import dataclass
from typing import Literal

_FORTH, _BACK = "source_to_target", "target_to_source"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How predictions become PCK. The error, and T with it, is measured in the reference image."""

    name: str
    directions: tuple[str, ...]
    """Directions the protocol allows: each one that a run has is scored, on its own."""
    base: Literal["box", "image", "keypoints"]
    """T is the longest side of the reference image's object box, of the image itself, or of the tight box around its
    keypoints."""

    def describe(self, direction: str) -> str:
        """The protocol in words, for people who read a number of it."""
        reference = "target" if direction == _FORTH else "source"
        base = {"box": "object box", "image": "image", "keypoints": "keypoints' tight box"}[self.base]
        return (
            f"{direction.replace('_', ' ')}, T = longest side of the {reference} {base}, original pixels, d <= alpha T"
        )


_PROTOCOLS = (
    Protocol(name="spair", directions=(_FORTH,), base="box"),
    Protocol(name="nemf", directions=(_BACK,), base="box"),
    Protocol(name="pf-willow-bbox-kp", directions=(_FORTH, _BACK), base="keypoints"),
    Protocol(name="pf-pascal", directions=(_FORTH, _BACK), base="image"),
)


def protocol(name: str) -> Protocol:
    """The protocol called `name`. Raises ValueError with the names there are."""
    for known in _PROTOCOLS:
        if known.name == name:
            return known
    raise ValueError(f"there is no protocol {name!r}; there are: " + ", ".join(p.name for p in _PROTOCOLS))
