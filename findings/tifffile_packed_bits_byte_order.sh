#!/usr/bin/env bash
# Seen 2026-11-29 with tifffile 2026.3.3, imagecodecs 2026.3.6 and rasterio 1.4.4 (GDAL, a reader of its own).
# Expected: numbers of 10, 12 or 14 bits, packed into a TIFF without loss, are the same in a little-endian and a big-endian
# file: packed bits go from the highest to the lowest, whatever the file's byte order.
# What happens: with byteorder=">" the file holds other numbers: the two bytes of each are swapped before they are packed
# and the bits that no longer fit are lost. tifffile and GDAL read the same wrong numbers, without an error. The step is
# imagecodecs.packints_encode, which packs an array of dtype >u2 as if its bytes were in the machine's order. Packed by hand
# from native numbers, the same big-endian file is read right by both.
# Why it matters: scientific, industrial and aerial cameras give 10 to 14 bits. A data set, or test images, written from them
# as big-endian files is noise, which looks like a fault of the reader, and the photographs cannot be had back.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q tifffile==2026.3.3 imagecodecs==2026.3.6 rasterio==1.4.4 numpy==2.4.6 ||
    { echo "could not install"; exit 2; }
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys

import imagecodecs
import numpy as np
import rasterio
import tifffile

changed = False


def check(what, seen, stated):
    global changed
    print(f"{what}: {seen}")
    if seen != stated:
        changed = True
        print(f"  CHANGED, it was: {stated}")


def read(file):
    """The numbers that tifffile and GDAL read: once where they agree."""
    with rasterio.open(file) as image:
        by_both = [tifffile.imread(file).tolist(), image.read(1).tolist()]
    return by_both[0][0] if by_both[0] == by_both[1] else by_both


numbers = np.array([[0, 1, 37, 259, 300, 511, 777, 1000]], np.uint16)
for bits in (10, 12, 14):
    packing = dict(photometric="minisblack", bitspersample=bits)
    tifffile.imwrite("little.tif", numbers, byteorder="<", **packing)
    tifffile.imwrite("big.tif", numbers, byteorder=">", **packing)
    by_hand = imagecodecs.packints_encode(numbers, bits)
    tifffile.imwrite(
        "by_hand.tif", iter([by_hand]), shape=numbers.shape, dtype=numbers.dtype, byteorder=">", rowsperstrip=1, **packing
    )
    swapped = (numbers.byteswap() & (2**bits - 1)).tolist()[0]
    check(f"{bits} bits, little-endian", read("little.tif"), numbers.tolist()[0])
    check(f"{bits} bits, big-endian", read("big.tif"), swapped)
    check(f"{bits} bits, big-endian, packed by hand", read("by_hand.tif"), numbers.tolist()[0])
    same = imagecodecs.packints_encode(numbers.astype(">u2"), bits) == by_hand
    check(f"{bits} bits, equal numbers of another byte order are packed the same", same, False)
sys.exit(changed)
PYTHON
