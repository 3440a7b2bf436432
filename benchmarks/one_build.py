"""Times the matcher of whichever checkout PYTHONPATH names; benchmarks.builds starts it, once for each build.

Reads lines of "KIND PAIRS" from standard input, KIND being keypoints or dense, matches as many pairs of two images,
other ones for each line, and answers with a line: CPU seconds, and the peak memory of the process so far in MB. It uses
only what builds have in common.
"""

import resource
import sys
import time

import numpy as np
import skimage.data
import torch
from PIL import Image

from nemf.load import load_matcher
from nemf.matcher import ImagePair

_HW = (375, 500)
_POINTS = 10


def _pairs(kind: str, count: int, turn: int) -> list[ImagePair]:
    """turn: its two images are in no other turn, so that every build has to encode them."""
    photograph = Image.fromarray(skimage.data.astronaut()).resize(_HW[::-1], Image.Resampling.BICUBIC)
    query_rgb = np.roll(np.asarray(photograph), turn, axis=0)
    reference_rgb = np.roll(query_rgb, 3, axis=1)
    pairs = []
    for number in range(count):
        points = np.random.default_rng(number).integers(0, _HW[::-1], (_POINTS, 2)).astype(np.float32)
        pair = ImagePair(
            query_rgb=query_rgb,
            reference_rgb=reference_rgb,
            query_xy_px=points if kind == "keypoints" else None,
            dense=kind == "dense",
            pair_id=str(number),
        )
        pairs.append(pair)
    return pairs


def main() -> None:
    """Answer until standard input ends; the first line is the matcher's fingerprint."""
    torch.set_num_threads(1)
    matcher = load_matcher(sys.argv[1], device="cpu")
    list(matcher.match_batch(_pairs("keypoints", 2, turn=0)))
    print(matcher.fingerprint, flush=True)
    for turn, line in enumerate(sys.stdin, start=1):
        kind, count = line.split()
        pairs = _pairs(kind, int(count), turn)
        start = time.process_time()
        list(matcher.match_batch(pairs))
        seconds = time.process_time() - start
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


if __name__ == "__main__":
    main()
