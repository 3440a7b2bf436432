"""The key colour of a PNG (tRNS), which Pillow compares with pixels of another depth than it has.

The key is a sample of the file's depth. Pillow scales grey of 1, 2 and 4 bits to 8, and keeps the high bytes of
16-bit colours, but not the key. 8-bit pixels, palettes and alpha need nothing; 16-bit grey is nemf.rgb's.
"""

import io

import numpy as np
from PIL import Image

_GREY, _RGB = 0, 2
_DEPTH, _COLOUR_TYPE = 24, 25
"""Offsets of the bit depth and the colour type in a PNG's IHDR chunk."""
_ROWS = 256


def apply_key_colour(image: Image.Image, data: bytes) -> None:
    """Correct the key colour of a decoded PNG; where 16-bit colours equal it, they become white."""
    key = image.info.get("transparency")
    depth, colour_type = data[_DEPTH], data[_COLOUR_TYPE]
    if key is None or depth == 8:
        return
    if colour_type == _GREY and depth < 8:
        image.info["transparency"] = (key & (2**depth - 1)) * 255 // (2**depth - 1)
    elif colour_type == _RGB and depth == 16:
        del image.info["transparency"]
        low_bytes = _low_bytes(data)
        for top in range(0, image.height, _ROWS):
            box = (0, top, image.width, min(top + _ROWS, image.height))
            high, low = (np.asarray(half.crop(box)).astype(np.uint16) for half in (image, low_bytes))
            is_key = (high << 8 | low == np.array(key)).all(axis=-1)
            image.paste("white", box, Image.fromarray(is_key))


def _low_bytes(data: bytes) -> Image.Image:
    """The low bytes of 16-bit colours, which Pillow keeps as high bytes if it reads the file as little-endian."""
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image
