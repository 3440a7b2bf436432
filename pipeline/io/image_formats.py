"""The image formats that are read, their suffixes, and what a file of another format is."""

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
"""Pillow's name of each format, and how its files end. HEIF needs the package pillow-heif."""

PILLOW_FORMATS = tuple(name for name in FORMATS if name != "HEIF")
"""Those that Pillow opens without a plug-in."""

_MISSING_HEIF = "pip install 'nemf[heif]' to read it"

JPEG = b"\xff\xd8\xff"
TIFF = (b"II\x2a\0", b"MM\0\x2a", b"MM\x2a\0", b"II\0\x2a", b"MM\0\x2b", b"II\x2b\0")
"""How a TIFF begins, with the variants that Pillow takes for one."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\xd8\xff\xf7", "JPEG-LS"),
    (rb"II\xbc", "JPEG XR"),
    (rb"II\x2a\0.{4}CR|.{4}ftypcrx ", "a Canon raw file"),
    (rb"IIRO|IIRS|MMOR", "an Olympus raw file"),
    (rb"IIU\0", "a Panasonic raw file"),
    (rb"FUJIFILMCCD-RAW", "a Fujifilm raw file"),
    (rb".{4}ftyp(avif|avis)", "AVIF"),
    (rb".{4}ftyp(?:" + b"|".join(_HEIF_BRANDS) + rb")", "HEIF (HEIC)"),
    (rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", "a video"),
    (rb"P[1-7][\s#]", "a portable pixmap (PPM, PGM, PBM or PAM)"),
    (rb"P[Ff]\s", "a portable float map"),
    (rb"\0\0[\x01\x02]\0", "a Windows icon (ICO) or cursor"),
    (rb"icns", "a macOS icon"),
    (rb"8BPS", "a Photoshop file (PSD)"),
    (rb"gimp xcf", "a GIMP file (XCF)"),
    (rb"%PDF", "a PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb"\s*(?:<\?xml.{0,1000}?)?(?:<!--.{0,1000}?)?(?:<!DOCTYPE svg.{0,1000}?)?<svg", "an SVG drawing"),
    (rb"(?i)\s*<(?:!doctype html|html|head|body)", "an HTML page"),
    (rb"\s*<\?xml", "an XML file"),
    (rb"version https://git-lfs", "a Git LFS pointer; `git lfs pull` gets the file"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?R(?:ADIANCE|GBE)", "Radiance HDR"),
    (rb"qoif", "QOI"),
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


class CostlyError(ValueError):
    """An image file whose headers ask for more than any image needs."""


class UnsupportedError(ValueError):
    """A valid image file of a format that is read, with pixels of a kind that is not; the message names the kind."""


def readable_formats() -> tuple[str, ...]:
    """The keys of FORMATS, without HEIF where pillow-heif is not installed."""
    return tuple(FORMATS) if has_heif() else PILLOW_FORMATS


def readable_suffixes() -> tuple[str, ...]:
    """How files of the readable formats end, in lower case."""
    return tuple(suffix for name in readable_formats() for suffix in FORMATS[name])


def has_heif() -> bool:
    """Whether pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def is_heif(data: bytes) -> bool:
    """Whether this is a HEIC or HEIF file by its first bytes."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[8:64]


@functools.cache
def register_heif() -> bool:
    """Let Pillow open HEIF; False without pillow-heif."""
    if not has_heif():
        return False
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return True


def describe(data: bytes) -> str | None:
    """What a file that is none of FORMATS is by its first bytes, with its article; None where they do not tell."""
    head = data[:4096]
    name = next((name for pattern, name in _SIGNATURES if re.match(pattern, head, re.DOTALL)), None)
    return f"{name}; {_MISSING_HEIF}" if name and is_heif(head) and not has_heif() else name


def left_out_hint(suffix: str) -> str:
    """Why files that end so are not read, where more can be said than that the format is not one of FORMATS."""
    return _MISSING_HEIF if suffix in FORMATS["HEIF"] and not has_heif() else ""
