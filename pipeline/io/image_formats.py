"""The image formats that are read, their suffixes, and descriptions of files of other formats."""

import functools
import importlib.util
import re

FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
"""File suffixes by Pillow's name of the format. HEIF needs the package pillow-heif."""

_MISSING_HEIF = "HEIF (HEIC); pip install 'nemf[heif]' to read it"

_SIGNATURES: dict[str, bytes] = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF.{4}WEBP",
    "TIFF": rb"II\x2a\0|MM\0\x2a|MM\x2a\0|II\0\x2a|MM\0\x2b|II\x2b\0",
    "BMP": rb"BM",
    "GIF": rb"GIF8[79]a",
    "AVIF": rb".{4}ftyp(?:avi[fs]|(?:mif1|msf1).{0,48}?avif)",
    "HEIF": rb".{4}ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)",
}
"""Regular expressions for the first bytes of files of FORMATS; the first that matches counts."""
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"II\xbc", "JPEG XR"),
    (rb"II\x2a\0.{4}CR|.{4}ftypcrx ", "a Canon raw file"),
    (rb"IIRO|IIRS|MMOR", "an Olympus raw file"),
    (rb"IIU\0", "a Panasonic raw file"),
    (rb"FUJIFILMCCD-RAW", "a Fujifilm raw file"),
    (rb".{4}ftyp(?!avi[fs]|hei[cxms]|hev[cx]|mif1|msf1)|\x1aE\xdf\xa3|RIFF.{4}AVI ", "a video"),
    (rb"P[1-7][\s#]", "a portable pixmap (PPM, PGM, PBM or PAM)"),
    (rb"P[Ff]\s", "a portable float map"),
    (rb"\0\0[\x01\x02]\0[^\0]\0", "a Windows icon (ICO) or cursor"),
    (rb"icns", "a macOS icon"),
    (rb"8BPS", "a Photoshop file (PSD)"),
    (rb"gimp xcf", "a GIMP file (XCF)"),
    (rb"%PDF", "a PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (
        rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.{0,1000}?)?(?:<!--.{0,1000}?)?(?:<!DOCTYPE svg.{0,1000}?)?<svg",
        "an SVG drawing",
    ),
    (rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)", "an HTML page"),
    (rb"\s*<\?xml", "an XML file"),
    (rb"version https://git-lfs", "a Git LFS pointer; `git lfs pull` gets the file"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?R(?:ADIANCE|GBE)", "Radiance HDR"),
    (rb"qoif", "QOI"),
    (rb"\x01\xda[\0\x01][\x01\x02]", "SGI"),
    (rb"DDS ", "a DirectDraw surface (DDS)"),
    (rb"SIMPLE  =", "FITS"),
    (rb".{128}DICM", "DICOM"),
    (rb"\x0a[\0-\x05]\x01[\x01\x02\x04\x08]", "PCX"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"PAR1", "a Parquet file"),
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (
        rb"[\x28\x0c\x34\x38\x40\x6c\x7c]\0\0\0.{8}\x01\0[\x01\x04\x08\x10\x18\x20]\0",
        "a bitmap without file header (DIB)",
    ),
    (rb"\0{16}", "zeros"),
)
"""Regular expressions for the first bytes of files of other formats, each with a description of the format."""


class CostlyError(ValueError):
    """An image file whose headers ask for more than any image needs."""


class UnsupportedError(ValueError):
    """A valid image file of a format that is read, with pixels of a kind that is not; the message names the kind."""


def readable_formats() -> tuple[str, ...]:
    """The keys of FORMATS, without HEIF where pillow-heif is not installed."""
    return tuple(name for name in FORMATS if name != "HEIF" or _has_heif())


def readable_suffixes() -> tuple[str, ...]:
    """The suffixes of files of the readable formats, in lower case."""
    return tuple(suffix for name in readable_formats() for suffix in FORMATS[name])


def why_not_read(suffix: str) -> str:
    """The reason why files that end in `suffix`, in lower case, are not read, as text."""
    if suffix in FORMATS["HEIF"]:
        return f"{suffix} file: {_MISSING_HEIF}"
    return f"{suffix} file, no image that is read" if suffix else "file without a suffix"


def format_of(data: bytes) -> str | None:
    """The key of FORMATS that a file is by its first bytes, readable or not; None for other files."""
    head = data[:4096]
    if _other(head):
        return None
    return next((name for name, start in _SIGNATURES.items() if re.match(start, head, re.DOTALL)), None)


def describe(data: bytes) -> str | None:
    """A description of a file that cannot be opened, from its first bytes; None if they match no known format."""
    name = format_of(data)
    if name == "HEIF" and not _has_heif():
        return _MISSING_HEIF
    return f"a damaged {name}" if name else _other(data[:4096])


@functools.cache
def register_heif() -> None:
    """Let Pillow open HEIF, where pillow-heif is installed."""
    if _has_heif():
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _has_heif() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def _other(head: bytes) -> str | None:
    return next((name for start, name in _OTHERS if re.match(start, head, re.DOTALL)), None)
