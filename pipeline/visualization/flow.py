"""Dense flow as pictures: its colours on the Middlebury wheel, and the reference image warped onto the query."""

import numpy as np
from jaxtyping import Float64, Real
from PIL import Image
from scipy.ndimage import map_coordinates

from nemf.matcher import RGB

OUTSIDE = (128, 128, 128)
"""The colour of query pixels that the flow maps outside the reference image."""
_STEPS = (15, 6, 4, 11, 13, 6)  # red to yellow, green, cyan, blue, magenta and back: finer where eyes see more


def colour_wheel() -> Float64[np.ndarray, "55 3"]:
    """RGB 0..255 of the hues of Baker et al., "A Database and Evaluation Methodology for Optical Flow"."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]])
    hues = []
    for steps, start, end in zip(_STEPS, corners[:-1], corners[1:], strict=True):
        changed = np.floor(255 * np.arange(steps) / steps)[:, None]
        rising, falling = end > start, end < start
        hues.append(np.where(rising, changed, np.where(falling, 255 - changed, 255 * start)))
    return np.concatenate(hues)


def colour_flow(flow_px: Real[np.ndarray, "h w 2"], longest_px: float) -> RGB:
    """(H, W, 3) uint8: direction as hue, right is red and down yellow; length as saturation, from white for none.

    flow_px: finite displacements (dx, dy) in pixels, x right and y down.
    longest_px: the length that has full colour; longer ones are darkened.
    """
    wheel = colour_wheel()
    u, v = np.moveaxis(flow_px / max(longest_px, np.finfo(np.float64).tiny), -1, 0)
    length = np.hypot(u, v)[..., None]
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    before = np.floor(position).astype(int)
    after, share = (before + 1) % len(wheel), (position - before)[..., None]
    hue = ((1 - share) * wheel[before] + share * wheel[after]) / 255
    colour = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.floor(255 * colour).astype(np.uint8)


def draw_wheel(side: int = 96) -> Image.Image:
    """The legend: a disc with the colour of each displacement from its centre, transparent around it."""
    across = np.linspace(-1, 1, side)
    flow = np.stack(np.meshgrid(across, across), axis=-1)
    inside = np.hypot(*np.moveaxis(flow, -1, 0)) <= 1
    return Image.fromarray(np.dstack([colour_flow(flow, 1.0), np.where(inside, 255, 0).astype(np.uint8)]), "RGBA")


def warp_onto_query(reference_rgb: RGB, flow_px: Real[np.ndarray, "h w 2"], every: int = 1) -> RGB:
    """The reference image warped onto the query's grid: query pixel x has the colour of the reference at x + flow.

    flow_px: displacements (dx, dy) in pixels, on the query grid. every: the step between the pixels that are shown.
    Returns (ceil(H / every), ceil(W / every), 3) uint8, bilinear; OUTSIDE where x + flow is outside the reference.
    """
    height, width = flow_px.shape[:2]
    query_xy_px = np.stack(np.meshgrid(np.arange(0, width, every), np.arange(0, height, every)), axis=-1)
    x, y = np.moveaxis(query_xy_px + flow_px[::every, ::every], -1, 0)
    channels = [map_coordinates(reference_rgb[..., c], [y, x], np.float32, order=1, mode="nearest") for c in range(3)]
    warped = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    reference_h, reference_w = reference_rgb.shape[:2]
    inside = (x >= -0.5) & (x <= reference_w - 0.5) & (y >= -0.5) & (y <= reference_h - 0.5)
    warped[~inside] = OUTSIDE
    return warped
