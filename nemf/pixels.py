"""From a Pillow image of any kind to RGB pixels: the one way images come into this project."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "_ _ 3"]:
    """(H, W, 3) uint8 with the EXIF orientation applied.

    CMYK and palettes are converted, transparency shows white, 16-bit grey keeps its high 8 bits (rounded). Raises
    ValueError for 32-bit integers and floats, whose range is not known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.ascontiguousarray(image.convert("RGB"))
