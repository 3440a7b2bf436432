"""Conversion of Pillow images of any kind to RGB pixels, used for all images of this project."""

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

_SHOWN_AFTER = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image of an EXIF orientation upright."""
SIDEWAYS = (5, 6, 7, 8)
"""The EXIF orientations of images whose width is the height of their file."""
_EXIF = ("exif", "Raw profile type exif")
_XMP = ("xmp", "XML:com.adobe.xmp")


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "_ _ 3"]:
    """(H, W, 3) uint8 with the EXIF orientation applied; EXIF that cannot be read is taken for none, XMP turns nothing.

    CMYK and palettes are converted, transparency shows white, 16-bit grey keeps its high 8 bits (rounded). Raises
    ValueError for 32-bit integers and floats, whose range is not known.
    """
    load_pixels(image)
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image = image.convert("RGB")  # the fourth byte was never filled in: every reader shows the colours
    image = _upright(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        shown = ((grey + 128) // 257).astype(np.uint8)
        if isinstance(key := image.info.get("transparency"), int):
            shown[grey == key] = 255
        image = Image.fromarray(shown)
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    elif image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.ascontiguousarray(image if image.mode == "RGB" else image.convert("RGB"))


def load_pixels(image: Image.Image) -> None:
    """Decode an image in place, without the orientation that XMP states: Pillow would turn a TIFF by it."""
    xmp = {key: image.info.pop(key) for key in _XMP if key in image.info}
    image.load()
    image.info.update(xmp)


def set_orientation(image: Image.Image, orientation: int) -> None:
    """State an EXIF orientation for an image that is not turned yet."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.info["exif"] = exif.tobytes()


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1, not turned, where there is none or it cannot be read."""
    only_exif = Image.new("1", (1, 1))  # an image without XMP, which getexif() would read too
    only_exif.info = {key: image.info[key] for key in _EXIF if key in image.info}
    try:
        orientation = only_exif.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation if orientation in _SHOWN_AFTER else 1
    except Exception:  # a broken record may make Pillow raise anything
        return 1


def _upright(image: Image.Image) -> Image.Image:
    """The image turned upright. ImageOps.exif_transpose is not used: it copies every image, and fails if it cannot
    write the EXIF back."""
    turn = _SHOWN_AFTER.get(exif_orientation(image))
    return image if turn is None else image.transpose(turn)
