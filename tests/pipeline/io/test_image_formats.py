import numpy as np
import pytest
from image_bytes import IMPOSTORS, UNKNOWN
from make import encoded, noise_rgb
from PIL import Image

from pipeline.io import image_formats
from pipeline.io.image_formats import FORMATS, describe, format_of, readable_formats, readable_suffixes, register_heif
from pipeline.io.images import ImageError, decode_image


def _gradients() -> np.ndarray:
    """(32, 48, 3) uint8 that lossy formats hardly change."""
    smooth = np.stack(np.meshgrid(np.arange(48) * 4, np.arange(32) * 5), axis=-1)
    return np.concatenate([smooth, 128 + 0 * smooth[..., :1]], axis=-1).astype(np.uint8)


def _heic(image: np.ndarray | Image.Image) -> bytes:
    register_heif()
    return encoded(image, "HEIF", quality=95, chroma=444)


@pytest.fixture
def _without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_formats, "_has_heif", lambda: False)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "HEIF"])
def test_a_file_is_of_the_format_that_wrote_it(name: str) -> None:
    assert format_of(encoded(noise_rgb(0), name)) == name


def test_files_of_other_formats_are_described() -> None:
    assert {name: describe(data) for name, (data, _) in IMPOSTORS.items()} == {
        name: kind for name, (_, kind) in IMPOSTORS.items()
    }
    assert not any(format_of(data) for data, _ in IMPOSTORS.values())
    assert not any(describe(data) for data in UNKNOWN.values())


def test_damaged_headers_are_named() -> None:
    for name in readable_formats():
        start = encoded(noise_rgb(0), name)[:30] if name != "HEIF" else _heic(noise_rgb(0))[:30]
        assert describe(start) == f"a damaged {name}"


def test_every_suffix_is_of_one_format() -> None:
    suffixes = [suffix for own in FORMATS.values() for suffix in own]

    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes)


def test_avif() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    transparent = Image.fromarray(_gradients()).convert("RGBA")
    transparent.putalpha(128)

    shown = decode_image(encoded(_gradients(), "AVIF", quality=95, subsampling="4:4:4"))
    turned = decode_image(encoded(_gradients(), "AVIF", quality=95, subsampling="4:4:4", exif=exif))
    on_white = decode_image(encoded(transparent, "AVIF", quality=95, subsampling="4:4:4"))

    assert np.abs(shown.astype(int) - _gradients()).mean() < 2
    assert np.abs(turned.astype(int) - np.rot90(_gradients(), -1)).mean() < 2
    assert np.abs(on_white - (_gradients() / 2 + 127.5)).mean() < 2


def test_heic() -> None:
    pytest.importorskip("pillow_heif")
    transparent = Image.fromarray(_gradients()).convert("RGBA")
    transparent.putalpha(128)

    assert np.abs(decode_image(_heic(_gradients())).astype(int) - _gradients()).mean() < 2
    assert np.abs(decode_image(_heic(transparent)) - (_gradients() / 2 + 127.5)).mean() < 2
    assert {".heic", ".heif"} <= set(readable_suffixes())
    with pytest.raises(ImageError) as error:
        decode_image(_heic(_gradients())[:-100])
    assert error.value.failure.kind == "corrupt"


@pytest.mark.usefixtures("_without_heif")
def test_without_its_plug_in_heic_is_an_error_that_names_it() -> None:
    start = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)

    with pytest.raises(ImageError) as error:
        decode_image(start, "a.heic")

    assert error.value.failure.message == (
        "a.heic: not an image we read: it is HEIF (HEIC); pip install 'nemf[heif]' to read it"
    )
    assert error.value.failure.kind == "not_an_image"
    assert not {".heic", ".heif"} & set(readable_suffixes())
