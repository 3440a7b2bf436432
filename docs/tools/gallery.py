"""Draws docs/pictures/gallery-*.jpg and writes docs/gallery.md round them. usage: python -m docs.tools.gallery

The photographs are those of scikit-image that anyone may show, and copies of one of them.
"""

import contextlib
import io
import os
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from jobs import field, pair
from jobs.demo_pairs import smooth_warp, warped
from nemf import load_matcher
from nemf.matcher import RGB
from pipeline.visualization.flow import colour_flow, warp_onto_query

PAGE = Path(__file__).parents[1] / "gallery.md"
PICTURES = PAGE.parent / "pictures"
_QUALITY = 82
_CAT = "172,113 320,135 265,240 150,60 60,110 120,250"
_INTRODUCTION = """# Gallery

What `nemf-small` answers, right and wrong, with the confidences that it prints: the probability that a point is
within a tenth of the object's size of its true place ([confidence](confidence.md)). The photographs are those of
scikit-image: the cat Chelsea (CC0, Stefan van der Walt), Eileen Collins (public domain, NASA), coffee (CC0, Rachel
Michetti). `python -m docs.tools.gallery` draws the pictures and writes this page.
"""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A picture of the page: a command, and what is to be seen."""

    title: str
    text: str
    command: str
    """The command line after `nemf`, without --out."""
    picture: str


EXHIBITS = [
    Exhibit(
        title="The same cat, bent",
        text="A smoothly warped copy, in which every point has one true place. Eyes and nose are found and sure; the "
        "fur of cheek and chin has less to tell it by, and less confidence.",
        command=f"pair chelsea.png chelsea-warped.png --points {_CAT}",
        picture="gallery-warped.jpg",
    ),
    Exhibit(
        title="Left and right",
        text="A mirrored copy looks like another cat, whose right eye is again the one on the left of the picture, and "
        "so the eyes are matched: by their parts, as keypoints are annotated, not by their pixels. The chin "
        "(pink) and the temple (blue), which have no such part, go along beside the face, with the least confidence.",
        command=f"pair chelsea.png chelsea-mirrored.png --points {_CAT}",
        picture="gallery-mirrored.jpg",
    ),
    Exhibit(
        title="Cat and astronaut",
        text="A failure. The network was trained on cats, dogs, cows, horses and sheep, never on people, and these are "
        "a small part of their picture: the eyes are taken for the tip of a rocket, nose and chin for a hand. No "
        "confidence is above 0.25. [A second look](zoom.md) is for small objects.",
        command=f"pair chelsea.png astronaut.png --points {_CAT}",
        picture="gallery-astronaut.jpg",
    ),
    Exhibit(
        title="Cat and coffee",
        text="A failure of the confidence. Nothing here has a match, but a shining spoon looks like an eye, and like a "
        "nose: one answer has 0.9, two more 0.65 and more. Confidences were learned on pairs of the same kind of "
        "animal, and hold for such pairs; that two images show the same thing must be known before, by categories or "
        "by `--pairing neighbours`.",
        command=f"pair chelsea.png coffee.png --points {_CAT}",
        picture="gallery-coffee.jpg",
    ),
    Exhibit(
        title="The field of one point",
        text="The score of every place of the other image for one point, the eye on the left: the other eye is the "
        "second peak.",
        command="field chelsea.png chelsea-warped.png --point 172,113",
        picture="gallery-field.jpg",
    ),
    Exhibit(
        title="The field of a point that has no match",
        text="The same eye, searched in the coffee: the peak is as steep, which is why the confidence is high.",
        command="field chelsea.png coffee.png --point 172,113",
        picture="gallery-field-coffee.jpg",
    ),
]
_FLOW_PICTURE = "gallery-flow.jpg"
_FLOW = f"""
## Flow

What `nemf match --outputs flow` stores of the first pair: the displacement of every pixel, its direction as a colour
and its length as strength. On the right the warped copy, brought back onto the photograph by it ([flow](flow.md)).

![The photograph, its flow as colours, and the other image warped by it](pictures/{_FLOW_PICTURE})
"""


def page(printed: dict[str, str]) -> str:
    """The page in Markdown. printed: what the command of each picture printed, by the name of the picture."""
    parts = [_INTRODUCTION]
    for shown in EXHIBITS:
        parts.append(
            f"\n## {shown.title}\n\n{shown.text}\n\n"
            f"    nemf {_in_lines(shown.command)} \\\n        --out {shown.picture}\n\n"
            f"![{shown.title}](pictures/{shown.picture})\n\n```text\n{printed[shown.picture]}\n```\n"
        )
    return "".join([*parts, _FLOW])


def _in_lines(command: str) -> str:
    """A command of `nemf pair` with its points on a line of their own, so that phones show it whole."""
    return command.replace(" --points", " \\\n        --points")


def write_photographs(folder: Path) -> None:
    """The photographs and copies that the commands name, as PNG."""
    chelsea: RGB = skimage.data.chelsea()
    to_source_px = smooth_warp(np.random.default_rng(0), chelsea.shape[:2])
    images = {
        "chelsea": chelsea,
        "chelsea-warped": warped(chelsea, to_source_px),
        "chelsea-mirrored": chelsea[:, ::-1],
        "astronaut": skimage.data.astronaut(),
        "coffee": skimage.data.coffee(),
    }
    for name, rgb in images.items():
        Image.fromarray(rgb).save(folder / f"{name}.png")


def draw(shown: Exhibit) -> str:
    """Run the command in the folder of the photographs, save its picture; returns what it printed."""
    name, *words = shlex.split(shown.command)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = {"pair": pair, "field": field}[name].main([*words, "--out", "drawn.png"])
    assert code == 0, shown.command
    _save(Image.open("drawn.png").convert("RGB"), shown.picture)
    return "\n".join(line for line in printed.getvalue().splitlines() if not line.startswith("drawn"))


def draw_flow() -> None:
    """The photograph, the flow of its warped copy as colours, and the copy brought back by it."""
    query_rgb, reference_rgb = (np.asarray(Image.open(f"{name}.png")) for name in ("chelsea", "chelsea-warped"))
    flow_px = load_matcher("nemf-small").match(query_rgb, reference_rgb, dense=True).flow_px
    assert flow_px is not None
    colours = colour_flow(flow_px, float(np.hypot(*np.moveaxis(flow_px, -1, 0)).max()))
    _save(Image.fromarray(np.hstack([query_rgb, colours, warp_onto_query(reference_rgb, flow_px)])), _FLOW_PICTURE)


def _save(image: Image.Image, name: str) -> None:
    image.thumbnail((1000, 1000))
    image.save(PICTURES / name, quality=_QUALITY, optimize=True)


def main() -> None:
    """Draw all and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_photographs(Path(folder))
        printed = {shown.picture: draw(shown) for shown in EXHIBITS}
        draw_flow()
    PAGE.write_text(page(printed), "utf-8")


if __name__ == "__main__":
    main()
