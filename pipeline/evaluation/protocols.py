"""The named protocols under which PCK is measured.

Seven choices fix a number; a Protocol is these choices. All are made after matching, so that one run is scored under
any number of them. A protocol of your own is a Protocol in a module of yours, a whole one in my_protocols.py:

    from pipeline.evaluation.protocols import Protocol

    STRICT = Protocol(name="strict", directions=("source_to_target",), base="box", inclusive=False)

It is used as `nemf evaluate --protocol my_protocols:STRICT ...`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nemf.plugins import load_attribute
from schemas.matches import DIRECTIONS, sides_of

_FORTH, _BACK = DIRECTIONS

Average = Literal["image", "point", "class"]
COLUMN_OF_AVERAGE: dict[Average, str] = {"image": "pck_image", "point": "pck_point", "class": "pck_class_mean"}
"""Columns of METRICS by average."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A rule for computing PCK from predictions. Errors are measured in the reference image: a keypoint is correct at d
    <= alpha T."""

    name: str
    directions: tuple[str, ...]
    """Directions the protocol allows; each of them that a run has is scored on its own."""
    base: Literal["box", "image", "keypoints"]
    """T is the longest side of an object box, of the image, or of the tight box around the keypoints."""
    base_of: Literal["reference", "query"] = "reference"
    """The image whose box, size or keypoints T is taken from."""
    padding: float | None = None
    """The box around the keypoints also includes this coordinate, with which published code fills up missing
    keypoints: a known bug."""
    space: Literal["original", "squash", "letterbox"] = "original"
    """Pixels are those of the image; of the image stretched to side_px x side_px; or scaled to fit into that."""
    side_px: int | None = None
    of: Literal["keypoints", "flow"] = "keypoints"
    """What is scored: the keypoints, or every pixel of the query image whose true flow is known."""
    inclusive: bool = True
    """A distance of exactly alpha T is correct."""
    points: Literal["all", "inside", "truncated"] = "all"
    """Which keypoints count. inside: those inside both images, with T still that of all; a pair with none of them is in
    no average. truncated: all, but the query's are truncated to whole pixels of the space and the predicted
    displacement is applied from there."""
    average: Average = "image"
    """The number the protocol is known by: the mean over images (pairs), over keypoints, or the mean over categories of
    their means over images."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Protocol).items():
            choices = get_args(kind)
            if get_origin(kind) is Literal and getattr(self, name) not in choices:
                raise ValueError(
                    f"protocol {self.name}: {name} must be {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        if self.side_px is not None and self.side_px < 1:
            raise ValueError(f"protocol {self.name}: side_px must be at least 1; got {self.side_px}")
        if (
            not self.directions
            or set(self.directions) - set(DIRECTIONS)
            or len(set(self.directions)) < len(self.directions)
        ):
            raise ValueError(
                f"protocol {self.name}: directions must be of {', '.join(DIRECTIONS)}, each once; got {self.directions}"
            )
        if (self.space == "original") != (self.side_px is None):
            raise ValueError(f"protocol {self.name}: squash and letterbox need side_px, original pixels have none")
        if self.padding is not None and self.base != "keypoints":
            raise ValueError(f"protocol {self.name}: only the keypoints' box is padded")
        plain = (self.base, self.base_of, self.space, self.points) == ("image", "reference", "original", "all")
        if self.of == "flow" and not plain:
            raise ValueError(
                f"protocol {self.name}: flow is scored in original pixels, with T of the whole reference image"
            )

    @property
    def column(self) -> str:
        """The column of METRICS that holds the number the protocol is known by."""
        return COLUMN_OF_AVERAGE[self.average]

    def describe(self, direction: str) -> str:
        """The seven choices in one line of text, for a direction."""
        query, reference = sides_of(direction)
        base_side = query if self.base_of == "query" else reference
        base = {"box": "object box", "image": "image", "keypoints": "keypoints' tight box"}[self.base]
        padded = "" if self.padding is None else f" padded with {self.padding:g}"
        space = {
            "original": "original pixels",
            "squash": f"pixels of a {self.side_px} x {self.side_px} squash",
            "letterbox": f"pixels of a {self.side_px} x {self.side_px} letterbox",
        }[self.space]
        points = {
            "all": "",
            "inside": ", keypoints inside both images",
            "truncated": ", query keypoints cut down to whole pixels",
        }[self.points]
        if self.of == "flow":
            points = f", pixels of the {query} image with known flow"
        return (
            f"{direction.replace('_', ' ')}, T = longest side of the {base_side} {base}{padded}, {space}, "
            f"d {'<=' if self.inclusive else '<'} alpha T{points}, average over "
            + {"image": "images", "point": "pixels" if self.of == "flow" else "keypoints", "class": "categories"}[
                self.average
            ]
        )


_EITHER = (_FORTH, _BACK)
_AVERAGES: tuple[Average, Average] = ("image", "point")

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="spair", directions=(_FORTH,), base="box"),
        Protocol(name="nemf", directions=(_BACK,), base="box"),
        Protocol(name="cats", directions=(_BACK,), base="box", space="squash", side_px=256, points="truncated"),
        Protocol(name="dhpf", directions=(_FORTH,), base="box", space="squash", side_px=240),
        # the published code measures in the target image and takes T from the source's box
        Protocol(name="lpmflow", directions=(_FORTH,), base="box", base_of="query", space="squash", side_px=512),
        *(
            Protocol(
                name=f"geoaware-{average}",
                directions=(_FORTH,),
                base="box",
                space="letterbox",
                side_px=840,
                inclusive=False,
                average=average,
            )
            for average in _AVERAGES
        ),
        Protocol(name="pf-pascal", directions=_EITHER, base="image"),
        *(
            Protocol(name=f"pf-pascal@{side}", directions=_EITHER, base="image", space="squash", side_px=side)
            for side in (224, 240, 256, 512)
        ),
        Protocol(name="pf-willow-bbox-kp", directions=_EITHER, base="keypoints"),
        Protocol(
            name="pf-willow-bbox-legacy", directions=_EITHER, base="keypoints", padding=-1, space="squash", side_px=256
        ),
        Protocol(
            name="pf-willow-bbox-legacy@240",
            directions=_EITHER,
            base="keypoints",
            padding=-2,
            space="squash",
            side_px=240,
        ),
        # FAcc of the official kit; its headline is alpha .05
        Protocol(name="tss", directions=_EITHER, base="image", of="flow"),
    )
}


def protocol(name: str) -> Protocol:
    """The protocol called `name`, or the one that `package.module:NAME` holds.

    Raises ValueError, which lists the known names, for an unknown one, and for a module without such a Protocol.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise ValueError(
            f"there is no protocol {name!r}; there are: {', '.join(PROTOCOLS)}; and package.module:NAME for your own"
        )
    loaded = load_attribute(name, f"protocol {name!r}")
    if not isinstance(loaded, Protocol):
        raise ValueError(
            f"protocol {name!r}: {module_name} has no pipeline.evaluation.protocols.Protocol called {attribute!r}"
        )
    if loaded.name in PROTOCOLS and loaded != PROTOCOLS[loaded.name]:
        raise ValueError(
            f"protocol {name!r} is called {loaded.name!r}, which is another one; give it a name of its own"
        )
    return loaded


def protocol_of(choices: Mapping[str, Any]) -> Protocol:
    """The protocol of these choices, dataclasses.asdict of one, as they come out of JSON.

    Raises ValueError for choices that this version does not know.
    """
    if unknown := choices.keys() - {field.name for field in fields(Protocol)}:
        raise ValueError(f"a protocol of another version: it has the unknown choices {', '.join(sorted(unknown))}")
    return Protocol(**{**choices, "directions": tuple(choices["directions"])})
