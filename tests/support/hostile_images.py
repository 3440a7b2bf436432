"""Image files that ask for more than they hold: a few bytes each, and a large image, or much work, in their headers."""

import struct
import zlib

from make import bomb_png, encoded
from PIL import Image

_SMALL = Image.new("RGB", (8, 8), "orange")


def png(width: int, height: int, *chunks: tuple[bytes, bytes], pixels: bytes = b"") -> bytes:
    """An RGB PNG with further chunks, (kind, body) each."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    all_chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in all_chunks
    )


def zeros(megabytes: int) -> bytes:
    """So many bytes of nothing, compressed to a thousandth."""
    compressor = zlib.compressobj(9)
    return b"".join(compressor.compress(bytes(2**20)) for _ in range(megabytes)) + compressor.flush()


def tiff(width: int = 8, height: int = 8, *tags: tuple[int, int, int, int], values: bytes = b"") -> bytes:
    """A grey TIFF; tags (number, type, count, value or offset) replace those of their number. `values` are at 200."""
    pixels = 8 + 2 + 12 * (9 + len(tags)) + 4
    known = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, pixels),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, min(width * height, 2**32 - 1)),
    } | {number: rest for number, *rest in tags}
    directory = b"".join(struct.pack("<HHII", number, *rest) for number, rest in sorted(known.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(known)) + directory + bytes(4)
    return head.ljust(200, b"\0") + (values or bytes(64))


def gif(width: int, height: int, frames: int = 1, frame_size: tuple[int, int] = (2, 2)) -> bytes:
    """A GIF of two colours; its frames are cut short."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + (b"," + struct.pack("<HHHHB", 0, 0, *frame_size, 0) + b"\x02\x02\x4c\x01\x00") * frames + b";"


def webp(width: int, height: int, frames: int = 0) -> bytes:
    """A WebP canvas of any size with a small picture, or an animation of them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body

    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    picture = encoded(_SMALL, "WEBP", lossless=True)[12:]
    body = chunk(b"VP8X", bytes([2 if frames else 0, 0, 0, 0]) + size)
    if frames:
        frame = chunk(b"ANMF", bytes(6) + bytes([7, 0, 0, 7, 0, 0]) + bytes(4) + picture)
        body += chunk(b"ANIM", bytes(6)) + frame * frames
    else:
        body += picture
    return chunk(b"RIFF", b"WEBP" + body)


def jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    small = encoded(_SMALL, "JPEG")
    at = small.index(b"\xff\xc0") + 5
    return small[:at] + struct.pack(">HH", height, width) + small[at + 4 :]


def jpeg_of_scans(scans: int) -> bytes:
    """A progressive JPEG of 8 x 8 grey pixels that repeats its last scan."""
    whole = encoded(Image.new("L", (8, 8), 90), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * (scans - whole.count(b"\xff\xda")) + whole[-2:]


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, colours: int = 0) -> bytes:
    """A BMP with hardly any pixels."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + header + bytes(64)


BOMBS: dict[str, tuple[bytes, str]] = {
    "png of 20,000 x 20,000": (bomb_png(), "too_large"),
    "png of 2^31 - 1 squared": (png(2**31 - 1, 2**31 - 1), "too_large"),
    "png of 0 x 0": (png(0, 0), "not_an_image"),
    "png, text of 64 MB": (png(8, 8, (b"zTXt", b"a\0\0" + zeros(64))), "corrupt"),
    "png, international text of 64 MB": (png(8, 8, (b"iTXt", b"a\0\1\0\0\0" + zeros(64))), "corrupt"),
    "png, 70 texts of 1 MB": (png(8, 8, *[(b"zTXt", b"a%d\0\0" % n + zeros(1)) for n in range(70)]), "corrupt"),
    "png, profile of 64 MB": (png(8, 8, (b"iCCP", b"a\0\0" + zeros(64))), "corrupt"),
    "tiff of 50,000 x 50,000": (tiff(50_000, 50_000), "too_large"),
    "tiff, a strip of 4 GB": (tiff(7000, 7000, (279, 4, 1, 2**32 - 1)), "truncated"),
    "tiff, compressed strip of 4 GB": (tiff(7000, 7000, (259, 3, 1, 8), (279, 4, 1, 2**32 - 1)), "corrupt"),
    "tiff, tiles of 2^31 squared": (
        tiff(64, 64, (259, 3, 1, 8), (322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 200), (325, 4, 1, 64)),
        "corrupt",
    ),
    "tiff, 65,535 samples": (tiff(8, 8, (277, 3, 1, 65535)), "not_an_image"),
    "tiff, a million strips": (tiff(8, 8, (273, 4, 10**6, 200), values=bytes(4 * 10**6)), "too_large"),
    "tiff, 2^32 - 1 strips": (tiff(8, 8, (273, 4, 2**32 - 1, 200)), "too_large"),
    "gif of 65,535 x 65,535": (gif(65535, 65535), "too_large"),
    "gif of 8 x 8, a frame of 65,535 x 65,535": (gif(8, 8, frame_size=(65535, 65535)), "too_large"),
    "webp of 16,383 x 16,383": (webp(16383, 16383), "too_large"),
    "webp of 2^24 squared": (webp(2**24, 2**24), "too_large"),
    "webp of 16,383 x 16,383, moving": (webp(16383, 16383, frames=2), "too_large"),
    "jpeg of 50,000 x 50,000": (jpeg(50_000, 50_000), "too_large"),
    "jpeg of 65,535 x 65,535": (jpeg(65535, 65535), "too_large"),
    "jpeg of 10,000 scans": (jpeg_of_scans(10_000), "too_large"),
    "bmp of 2^31 - 1 squared": (bmp(2**31 - 1, 2**31 - 1), "too_large"),
    "bmp of negative size": (bmp(-5, -(2**31)), "too_large"),
    "bmp, run lengths of nothing": (bmp(7000, 7000, 8, 1, 256), "corrupt"),
    "bmp of 2^32 - 1 colours": (bmp(8, 8, 8, 0, 2**32 - 1), "corrupt"),
}
"""What a few bytes can ask for, and the reason why they do not get it."""

_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(w) (%pipe%id) file\nshowpage\n"
IMPOSTORS = {
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "html": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>",
    "eps": _EPS,
    "eps with a preview": struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(_EPS), 0, 0, 0, 0, 0xFFFF) + _EPS,
    "pickle": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
    "zip": b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18),
    "parquet": b"PAR1" + bytes(32) + b"PAR1",
    "pixmap": b"P6 8 8 255\n" + bytes(192),
    "icon": b"\0\0\1\0\1\0" + bytes(16),
    "zeros": bytes(100),
}
"""What is called .jpg and is none of the formats that are read; Pillow would start Ghostscript for two of them."""
