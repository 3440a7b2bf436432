"""From a Pillow image of any mode to RGB pixels: every image enters this project here."""

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

_UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns an image of each EXIF orientation upright."""


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "_ _ 3"]:
    """(H, W, 3) uint8 with the EXIF orientation applied; EXIF that cannot be read is ignored.

    CMYK and palettes are converted, transparency shows white, 16-bit grey keeps its high 8 bits (rounded). Raises
    ValueError for 32-bit integers and floats, whose range is not known.
    """
    image = _upright(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.ascontiguousarray(image if image.mode == "RGB" else image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied.

    ImageOps.exif_transpose copies every image, and fails where it cannot write the EXIF back.
    """
    image.load()
    try:
        turn = _UPRIGHT_BY.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of any kind, from a broken EXIF record
        return image
    return image if turn is None else image.transpose(turn)
