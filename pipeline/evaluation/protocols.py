"""The named protocols under which PCK is measured.

A few choices fix a number; a Protocol is these choices. All are made after matching, so that one run is scored under
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
    base: Literal["box", "box or image", "image", "keypoints"]
    """T is the longest side of an object box, of the image, or of the tight box around the keypoints. box or image: of
    the image where the pair has no box."""
    base_of: Literal["reference", "query"] = "reference"
    """The image whose box, size or keypoints T is taken from."""
    margin: float = 0
    """The object box is widened by this share of its sides, on each side."""
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
    points: Literal["all", "inside", "truncated", "geometry-aware"] = "all"
    """Which keypoints count. inside: those inside both images, with T still that of all; a pair with none of them is in
    no average. truncated: all, but the query's are truncated to whole pixels of the space and the predicted
    displacement is applied from there. geometry-aware: those of which another of the same list of geometry_groups is
    labelled in the target, whether or not in the source; a pair with none of them is in no average."""
    truth: Literal["one", "nearest valid"] = "one"
    """nearest valid: the error is the distance from the nearest of the pair's target_valid_xy_px."""
    nearest_only: bool = False
    """A keypoint is wrong where another keypoint of the pair is nearer to the prediction. The kinds of error are
    counted too: jitter, miss and swap."""
    mirror_cases: bool = False
    """The cases of left and right are groups of METRICS, see pipeline.evaluation.mirror_cases."""
    kap: bool = False
    """The keypoint average precision is computed beside PCK: see pipeline.evaluation.kap."""
    occluded: Literal["any", "labelled", "halved"] = "any"
    """What is known of keypoints of visibility 1. labelled: they are where they were labelled. halved: in both images
    they have half of their coordinates in the letterbox, which the image is in the middle of, as the published
    evaluator of AP-10K has it: a known bug. Manifests that differ are refused; any: not looked at."""
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
        if self.occluded == "halved" and self.space != "letterbox":
            raise ValueError(f"protocol {self.name}: occluded keypoints are halved in a letterbox")
        if self.margin and self.base != "box":
            raise ValueError(f"protocol {self.name}: only the object box has a margin")
        only_forth = self.points == "geometry-aware" or self.truth == "nearest valid"
        if only_forth and self.directions != (DIRECTIONS[0],):
            raise ValueError(
                f"protocol {self.name}: geometry-aware points and several valid ones are known of the target alone: "
                f"directions must be ({DIRECTIONS[0]!r},)"
            )
        if self.nearest_only and (self.points not in ("all", "truncated") or self.truth == "nearest valid"):
            raise ValueError(f"protocol {self.name}: nearest_only compares all keypoints of a pair, of one truth each")
        of_box = (self.base, self.base_of, self.margin, self.space) == ("box", "reference", 0, "original")
        if self.kap and not of_box:
            raise ValueError(
                f"protocol {self.name}: matches hold scores within alpha T for T of the reference's box alone, in "
                "original pixels, which KAP is made from"
            )
        plain = (self.base, self.base_of, self.space, self.points) == ("image", "reference", "original", "all")
        plain &= (self.truth, self.nearest_only, self.occluded) == ("one", False, "any") and not self.mirror_cases
        if self.of == "flow" and not plain:
            raise ValueError(
                f"protocol {self.name}: flow is scored in original pixels, with T of the whole reference image"
            )

    @property
    def column(self) -> str:
        """The column of METRICS that holds the number the protocol is known by."""
        return COLUMN_OF_AVERAGE[self.average]

    def describe(self, direction: str) -> str:
        """The choices in one line of text, for a direction."""
        query, reference = sides_of(direction)
        base_side = query if self.base_of == "query" else reference
        base = {
            "box": "object box",
            "box or image": "object box (of the image where there is none)",
            "image": "image",
            "keypoints": "keypoints' tight box",
        }[self.base]
        padded = "" if self.padding is None else f" padded with {self.padding:g}"
        padded += f" with a margin of {self.margin:.0%}" if self.margin else ""
        space = {
            "original": "original pixels",
            "squash": f"pixels of a {self.side_px} x {self.side_px} squash",
            "letterbox": f"pixels of a {self.side_px} x {self.side_px} letterbox",
        }[self.space]
        points = {
            "all": "",
            "inside": ", keypoints inside both images",
            "truncated": ", query keypoints cut down to whole pixels",
            "geometry-aware": ", keypoints of which another of their geometry group is labelled in the target",
        }[self.points]
        points += ", the nearest of several valid points counts" if self.truth == "nearest valid" else ""
        points += " and no other keypoint of the pair is nearer" if self.nearest_only else ""
        points += ", by the cases of left and right" if self.mirror_cases else ""
        points += ", with the average precision of scores" if self.kap else ""
        points += ", occluded keypoints at half of their coordinates" if self.occluded == "halved" else ""
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
_AP10K: dict[str, Literal["labelled", "halved"]] = {"ap10k": "labelled", "ap10k-geoaware": "halved"}

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
        Protocol(name="spair-dagger", directions=(_FORTH,), base="box", nearest_only=True),
        Protocol(
            name="spair-geometry-aware",
            directions=(_FORTH,),
            base="box",
            space="letterbox",
            side_px=840,
            inclusive=False,
            points="geometry-aware",
        ),
        Protocol(name="geco", directions=(_FORTH,), base="box", average="point", mirror_cases=True),
        Protocol(name="kap", directions=_EITHER, base="box", average="class", kap=True),
        Protocol(name="marco", directions=(_FORTH,), base="box", space="squash", side_px=770),
        Protocol(name="marco-ap10k", directions=(_FORTH,), base="box", space="letterbox", side_px=770),
        *(
            Protocol(
                name=name,
                directions=(_FORTH,),
                base="box",
                space="letterbox",
                side_px=840,
                inclusive=False,
                occluded=occluded,
            )
            for name, occluded in _AP10K.items()
        ),
        Protocol(name="soco", directions=(_FORTH,), base="box or image", inclusive=False, average="class"),
        Protocol(
            name="soco-cc",
            directions=(_FORTH,),
            base="box or image",
            inclusive=False,
            average="class",
            truth="nearest valid",
        ),
        Protocol(name="cub-dem", directions=(_FORTH,), base="box"),
        # the published code crops the widened box to a square, whose sides it rounds to whole pixels: not done here
        Protocol(name="cub-asic", directions=(_FORTH,), base="box", margin=0.05, inclusive=False, average="point"),
        # its images are such crops by default, so that the long side of the image is that of the widened box
        Protocol(name="cub-geco", directions=(_FORTH,), base="box", margin=0.05, average="point"),
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
