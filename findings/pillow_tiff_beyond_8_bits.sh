#!/usr/bin/env bash
# Seen 2026-11-29 with Pillow 13.0.0, on files of tifffile 2026.3.3 with imagecodecs 2026.3.6, which reads back the same numbers.
# Expected: what Pillow does with TIFFs of 8 bits and less, it does with those of more, or raises an error.
# What happens, without an error:
# - RGB of 16 bits with its planes apart (planar configuration 2), uncompressed: other pixels. The bytes of each plane's first
#   half are taken for numbers of 8 bits. The same image compressed with deflate is right.
# - 16 bits of grey where white is zero: not inverted, the photograph is a negative. With 8 bits it is inverted.
# - 12 bits of grey: numbers up to 4095 in the 16-bit mode "I;16", nearly black. 4 bits are stretched to 8.
# Why it matters: microscopes, scanners and aerial cameras write such TIFFs. A matcher gives plausible wrong correspondences on
# noise, negatives and black images, and nothing says which images were read wrong.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6 ||
    { echo "could not install"; exit 2; }
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys

import numpy as np
import tifffile
from PIL import Image

changed = False


def check(what, seen, stated):
    global changed
    print(f"{what}: {seen}")
    if seen != stated:
        changed = True
        print(f"  CHANGED, it was: {stated}")


def in_pillow(pixels, **tags):
    """Mode and values in Pillow of a TIFF that tifffile reads back as it was written."""
    tifffile.imwrite("image.tif", pixels, **tags)
    assert np.array_equal(tifffile.imread("image.tif"), pixels)
    with Image.open("image.tif") as image:
        return image.mode, np.asarray(image).tolist()


grey = np.array([[0, 64, 255]], np.uint8)
white_is_zero = dict(photometric="miniswhite")
check("grey, white is zero, 8 bits", in_pillow(grey, **white_is_zero), ("L", [[255, 191, 0]]))
seen = in_pillow(grey.astype(np.uint16) * 257, **white_is_zero)
check("grey, white is zero, 16 bits", seen, ("I;16", [[0, 64 * 257, 65535]]))

seen = in_pillow(np.array([[0, 5, 15]], np.uint8), photometric="minisblack", bitspersample=4)
check("grey, 4 bits", seen, ("L", [[0, 85, 255]]))
seen = in_pillow(np.array([[0, 1024, 4095]], np.uint16), photometric="minisblack", bitspersample=12)
check("grey, 12 bits", seen, ("I;16", [[0, 1024, 4095]]))

red, green, blue = [[65535, 65535], [65535, 65535]], [[0, 20000], [40000, 65535]], [[256, 256], [256, 256]]
planes = np.array([red, green, blue], np.uint16)
right = np.moveaxis(planes >> 8, 0, -1).tolist()
apart = dict(photometric="rgb", planarconfig="separate", byteorder="<")
first_half = np.moveaxis(planes.astype("<u2").view(np.uint8).reshape(3, 8)[:, :4].reshape(3, 2, 2), 0, -1).tolist()
check("RGB, planes apart, 8 bits", in_pillow((planes >> 8).astype(np.uint8), **apart), ("RGB", right))
check("RGB, planes apart, 16 bits, deflate", in_pillow(planes, compression="adobe_deflate", **apart), ("RGB", right))
check("RGB, planes apart, 16 bits, uncompressed", in_pillow(planes, **apart), ("RGB", first_half))
print("the right pixels:", right)
sys.exit(changed)
PYTHON
