"""The field's logits of pairs of points, and their gradient, in one Triton kernel: gather, encoding and layers fused.

nemf.model.field.Field is the definition. A program takes a tile of candidates, pairs of a reference point and a query
point, from their coordinates to their logits; no activation reaches memory. Operands of matrix products have the dtype
of the weights, all else is float32. For the gradient a program stores the masks of the rectifiers in a buffer of its
own, and runs the layers backward.

Shaped for Hopper GPUs and the published sizes: compiled for one (sm_90), a program takes 176 KiB of the 227 KiB of
shared memory, 184 with the gradient, and to score it spills no register in the loop over the weights of a block. It is
tested in Triton's interpreter and by compiling it; it has never run on a GPU, and is not tuned for one.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, no_type_check

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

from nemf.model.field import Field

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


class Launch(NamedTuple):
    """How the kernel is run; fixed, so that no logit depends on the number of candidates."""

    tile: int = 128
    """Number of candidates of a program at a time, 64 to a warp group."""
    chunk: int = 16384
    """Weights of a layer in a chunk: of two layers, the chunk in use and the next one are in shared memory."""
    warps: int = 8
    stages: int = 2


_LAUNCH = Launch()


class KernelWeights(NamedTuple):
    """The weights of a field for the kernel. Matrices are (in, out), padded with zeros to Triton's powers of two."""

    frequency: Float[Tensor, " wave"]
    """Frequencies of the encoding's angles, float32: x's in the first half, y's in the second."""
    from_sine: Float[Tensor, "wave hidden"]
    from_cosine: Float[Tensor, "wave hidden"]
    from_z: Float[Tensor, "2 hidden"]
    """Weights of the shifted coordinates themselves, float32: in bfloat16 these would be off by pixels."""
    from_phi: Float[Tensor, "block channel hidden"]
    bias: Float[Tensor, "layer hidden"]
    """The biases added with the cost features of each block, and before the output: their bias plus that of the block
    before."""
    weight_0: Float[Tensor, "block hidden hidden"]
    bias_0: Float[Tensor, "block hidden"]
    weight_1: Float[Tensor, "block hidden hidden"]
    weight_out: Float[Tensor, " hidden"]
    bias_out: Float[Tensor, " 1"]

    @staticmethod
    @torch.no_grad()
    def from_field(field: Field, dtype: torch.dtype = torch.bfloat16) -> "KernelWeights":
        """The weights of a field, of this dtype as operands of matrix products and float32 elsewhere.

        Raises ValueError for a width the kernel cannot take.
        """
        hidden = field.fc_out.in_features
        if hidden not in (16, 32, 64, 128, 256, 512):
            raise ValueError(f"the kernel takes a field whose width is a power of two from 16 to 512, got {hidden}")
        angles = 2 * field.n_frequencies
        sine, cosine, z = field.fc_p.weight.T.chunk(2)[0].split([angles, angles, 2])
        frequency = field.frequencies(z.float())
        phi_weight, phi_bias = _stacked(field.fc_c)
        weight_0, bias_0 = _stacked(block.fc_0 for block in field.blocks)
        weight_1, bias_1 = _stacked(block.fc_1 for block in field.blocks)
        return KernelWeights(
            frequency=_filled(frequency[:, None]).repeat(2, 1)[:, 0],
            from_sine=_filled(sine.unflatten(0, (2, -1))).flatten(0, 1).to(dtype),
            from_cosine=_filled(cosine.unflatten(0, (2, -1))).flatten(0, 1).to(dtype),
            from_z=z.float().contiguous(),
            from_phi=_filled(phi_weight).to(dtype),
            bias=(F.pad(phi_bias, (0, 0, 0, 1)) + F.pad(bias_1, (0, 0, 1, 0))).float(),
            weight_0=weight_0.to(dtype),
            bias_0=bias_0.float(),
            weight_1=weight_1.to(dtype),
            weight_out=field.fc_out.weight[0].float(),
            bias_out=field.fc_out.bias.float(),
        )


def score(
    weights: KernelWeights,
    rows: Float[Tensor, "r c"],
    reference_hw: tuple[int, int],
    reference_step: int,
    reference_xy_norm: Float[Tensor, "n 2"],
    query_index: Int64[Tensor, " n"],
    query_row: Int64[Tensor, "m 4"],
    query_weight: Float[Tensor, "m 4"],
    query_hidden: Float[Tensor, "m hidden"],
    *,
    gradient: bool,
    positional_gradient: bool = False,
    launch: Launch = _LAUNCH,
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 2"] | None]:
    """Logits of N reference points, each at one of M prepared query points, and their derivatives by the former.

    All tensors are on one device and contiguous; a point's logit does not depend on the other points.

    rows: cost features of all pairs of images, float32 or bfloat16, see nemf.model.scorer.CostTable.
    reference_hw, reference_step: the grid of reference cells, and the number of rows from one of them to the next.
    query_index: the index of each reference point's query point.
    query_row: the rows of each query point's four cells with its pair's first reference cell.
    query_weight: the bilinear weights of these cells; 0 for one outside the grid.
    query_hidden: the query points' part of the field's first layer, with its bias.
    gradient: return the derivatives too, (n, 2) float32, otherwise None.
    positional_gradient: include the derivative through the encoding of the reference points.
    """
    candidates, prepared = (reference_xy_norm, query_index), (query_row, query_weight, query_hidden)
    assert all(t.is_contiguous() for t in (*weights, rows, *candidates, *prepared))
    n, (blocks, channels_2, hidden) = len(query_index), weights.from_phi.shape
    programs = min(triton.cdiv(n, launch.tile), _programs_at_once(rows.device))
    logits = rows.new_empty(n, dtype=torch.float32)
    gradients = rows.new_empty((n, 2) if gradient else 0, dtype=torch.float32)
    relu_masks = rows.new_empty((programs, blocks, 2, launch.tile, hidden) if gradient else 0, dtype=torch.int8)
    if n:
        with torch.cuda.device_of(rows):
            _score_tiles[(programs,)](
                weights,
                rows,
                *candidates,
                *prepared,
                logits,
                gradients,
                relu_masks,
                n,
                *reference_hw,
                reference_step,
                channels=rows.shape[1],
                channels_2=channels_2,
                waves=len(weights.frequency),
                hidden=hidden,
                blocks=blocks,
                with_gradient=gradient,
                positional=positional_gradient,
                tile_size=launch.tile,
                step=min(launch.chunk // hidden, hidden),
                num_warps=launch.warps,
                num_stages=launch.stages,
                enable_fp_fusion=True,
            )
    return logits, gradients if gradient else None


def _stacked(layers: Iterable[Any]) -> tuple[Float[Tensor, "layer in out"], Float[Tensor, "layer out"]]:
    weight, bias = zip(*((layer.weight.T, layer.bias) for layer in layers), strict=True)
    return torch.stack(weight), torch.stack(bias)


def _filled(matrix: Float[Tensor, "*n in out"]) -> Float[Tensor, "*n size out"]:
    """The matrix with rows of zeros up to a power of two, at least 16, as a matrix product in Triton takes."""
    size = matrix.shape[-2]
    return F.pad(matrix, (0, 0, 0, max(16, triton.next_power_of_2(size)) - size)).contiguous()


def _programs_at_once(device: torch.device) -> int:
    """The number of programs to run: one per multiprocessor, whose shared memory it takes; two in the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@triton.jit(do_not_specialize=["n"])
@no_type_check
def _score_tiles(
    weights,
    rows,
    reference_xy_norm,
    query_index,
    query_row,
    query_weight,
    query_hidden,
    logits,
    gradients,
    relu_masks,
    n,
    reference_height,
    reference_width,
    reference_step,
    channels: tl.constexpr,
    channels_2: tl.constexpr,
    waves: tl.constexpr,
    hidden: tl.constexpr,
    blocks: tl.constexpr,
    with_gradient: tl.constexpr,
    positional: tl.constexpr,
    tile_size: tl.constexpr,
    step: tl.constexpr,
):
    layer_size: tl.constexpr = hidden * hidden
    mask_size: tl.constexpr = tile_size * hidden
    relu_masks += tl.program_id(0).to(tl.int64) * (blocks * 2 * mask_size)
    for tile in range(tl.program_id(0), tl.cdiv(n, tile_size), tl.num_programs(0)):
        candidate = tile * tile_size + tl.arange(0, tile_size)
        valid = candidate < n
        x = tl.load(reference_xy_norm + 2 * candidate, valid, 0.0)
        y = tl.load(reference_xy_norm + 2 * candidate + 1, valid, 0.0)
        index = tl.load(query_index + candidate, valid, 0)

        query_corners = (query_row + 4 * index, query_weight + 4 * index)
        phi, phi_by_x, phi_by_y = _gather(
            rows,
            x,
            y,
            query_corners,
            reference_height,
            reference_width,
            reference_step,
            channels,
            channels_2,
            tile_size,
        )
        phi = phi.to(weights.from_phi.dtype.element_ty)
        angle = _angle(x, y, weights.frequency, waves)
        sine = tl.sin(angle).to(weights.from_sine.dtype.element_ty)
        cosine = tl.cos(angle).to(weights.from_cosine.dtype.element_ty)

        h = tl.load(query_hidden + index[:, None] * hidden + tl.arange(0, hidden)[None, :]).to(tl.float32)
        h += (2 * x + 3)[:, None] * _row(weights.from_z, hidden)
        h += (2 * y + 3)[:, None] * _row(weights.from_z + hidden, hidden)
        h = _dot(sine, _load(weights.from_sine, waves, hidden, hidden), h)
        h = _dot(cosine, _load(weights.from_cosine, waves, hidden, hidden), h)
        for i in range(blocks):
            h += _row(weights.bias + i * hidden, hidden)
            h = _dot(phi, _load(weights.from_phi + i * channels_2 * hidden, channels_2, hidden, hidden), h)
            h = _through_block(
                h,
                weights.weight_0 + i * layer_size,
                weights.bias_0 + i * hidden,
                weights.weight_1 + i * layer_size,
                relu_masks + i * 2 * mask_size,
                with_gradient,
                tile_size,
                hidden,
                step,
            )
        h += _row(weights.bias + blocks * hidden, hidden)
        out = _row(weights.weight_out, hidden)
        tl.store(logits + candidate, tl.sum(_relu(h) * out, axis=1) + tl.load(weights.bias_out), valid)

        if with_gradient:
            # one thread's masks are read by others
            tl.debug_barrier()
            grad_h = tl.where(h > 0, out, 0.0)
            grad_phi = tl.zeros((tile_size, channels_2), tl.float32)
            for done in range(blocks):
                i = blocks - 1 - done
                grad_h = _back_through_block(
                    grad_h,
                    weights.weight_0 + i * layer_size,
                    weights.weight_1 + i * layer_size,
                    relu_masks + i * 2 * mask_size,
                    tile_size,
                    hidden,
                    step,
                )
                from_phi = _load(weights.from_phi + i * channels_2 * hidden, channels_2, hidden, hidden)
                grad_phi = _dot(grad_h, tl.trans(from_phi), grad_phi)
            by_x = tl.sum(grad_phi * phi_by_x, axis=1)
            by_y = tl.sum(grad_phi * phi_by_y, axis=1)
            if positional:
                angle = _angle(x, y, weights.frequency, waves)
                zeros = tl.zeros((tile_size, waves), tl.float32)
                grad_sine = _dot(grad_h, tl.trans(_load(weights.from_sine, waves, hidden, hidden)), zeros)
                grad_cosine = _dot(grad_h, tl.trans(_load(weights.from_cosine, waves, hidden, hidden)), zeros)
                of_x = tl.arange(0, waves)[None, :] < waves // 2
                grad_z = (grad_sine * tl.cos(angle) - grad_cosine * tl.sin(angle)) * _row(weights.frequency, waves)
                by_x += 2 * tl.sum(tl.where(of_x, grad_z, 0.0), axis=1)
                by_y += 2 * tl.sum(tl.where(of_x, 0.0, grad_z), axis=1)
                by_x += 2 * tl.sum(grad_h * _row(weights.from_z, hidden), axis=1)
                by_y += 2 * tl.sum(grad_h * _row(weights.from_z + hidden, hidden), axis=1)
            tl.store(gradients + 2 * candidate, by_x, valid)
            tl.store(gradients + 2 * candidate + 1, by_y, valid)
            # the masks are overwritten in the next tile
            tl.debug_barrier()


@triton.jit
@no_type_check
def _gather(
    rows,
    x,
    y,
    query_corners,
    reference_height,
    reference_width,
    reference_step,
    channels: tl.constexpr,
    channels_2: tl.constexpr,
    tile_size: tl.constexpr,
):
    """Cost features at the reference and query points, and their derivatives by the reference's normalised x and y."""
    query_row, query_weight = query_corners
    channel = tl.arange(0, channels_2)[None, :]
    phi = tl.zeros((tile_size, channels_2), tl.float32)
    by_x = tl.zeros((tile_size, channels_2), tl.float32)
    by_y = tl.zeros((tile_size, channels_2), tl.float32)
    for corner in tl.static_range(4):
        column, weight_x, slope_x = _cell(x, reference_width, corner % 2)
        line, weight_y, slope_y = _cell(y, reference_height, corner // 2)
        at_corner = tl.zeros((tile_size, channels_2), tl.float32)
        for query_corner in tl.static_range(4):
            row = tl.load(query_row + query_corner) + (line * reference_width + column) * reference_step
            values = tl.load(rows + row[:, None] * channels + channel, channel < channels, 0.0).to(tl.float32)
            at_corner += tl.load(query_weight + query_corner)[:, None] * values
        phi += (weight_y * weight_x)[:, None] * at_corner
        by_x += (weight_y * slope_x)[:, None] * at_corner
        by_y += (slope_y * weight_x)[:, None] * at_corner
    return phi, by_x, by_y


@triton.jit
@no_type_check
def _cell(position_norm, size, after: tl.constexpr):
    """Along an axis, the cell before or after a position: index, weight, and the weight's derivative by the position.

    A cell outside the grid has weight 0 and the index of the nearest.
    """
    position = (position_norm + 1) / 2 * (size - 1)
    low = tl.floor(position)
    cell = low + after
    valid = (cell >= 0) & (cell < size)
    weight = tl.where(valid, position - low if after else 1 - (position - low), 0.0)
    slope = tl.where(valid, (size - 1) * (after - 0.5), 0.0)
    return tl.minimum(tl.maximum(cell, 0), size - 1).to(tl.int32), weight, slope


@triton.jit
@no_type_check
def _angle(x, y, frequency, waves: tl.constexpr):
    """Angles of the encoding, up to thousands of radians: tl.sin and tl.cos reduce these accurately in float32."""
    of_x = tl.arange(0, waves)[None, :] < waves // 2
    return (2 * tl.where(of_x, x[:, None], y[:, None]) + 3) * _row(frequency, waves)


@triton.jit
@no_type_check
def _through_block(
    h,
    weight_0,
    bias_0,
    weight_1,
    relu_masks,
    store_masks: tl.constexpr,
    tile_size: tl.constexpr,
    hidden: tl.constexpr,
    step: tl.constexpr,
):
    """h + fc_1(relu(fc_0(relu(h)))), without the bias of fc_1, some inner units at a time."""
    if store_masks:
        tl.store(_pointers(relu_masks, tile_size, hidden, hidden), (h > 0).to(tl.int8))
    rectified = _relu(h).to(weight_0.dtype.element_ty)
    for first in range(0, hidden, step):
        inner = _dot(rectified, _load(weight_0 + first, hidden, step, hidden), tl.zeros((tile_size, step), tl.float32))
        inner += _row(bias_0 + first, step)
        if store_masks:
            inner_masks = relu_masks + tile_size * hidden + first
            tl.store(_pointers(inner_masks, tile_size, step, hidden), (inner > 0).to(tl.int8))
        h = _dot(_relu(inner), _load(weight_1 + first * hidden, step, hidden, hidden), h)
    return h


@triton.jit
@no_type_check
def _back_through_block(
    grad_h, weight_0, weight_1, relu_masks, tile_size: tl.constexpr, hidden: tl.constexpr, step: tl.constexpr
):
    """The derivative by the input of a block, from that by its output."""
    grad_out = grad_h.to(weight_0.dtype.element_ty)
    grad_rectified = tl.zeros((tile_size, hidden), tl.float32)
    for first in range(0, hidden, step):
        chunk_1 = tl.trans(_load(weight_1 + first * hidden, step, hidden, hidden))
        grad_inner = _dot(grad_out, chunk_1, tl.zeros((tile_size, step), tl.float32))
        inner_mask = _load(relu_masks + tile_size * hidden + first, tile_size, step, hidden)
        chunk_0 = tl.trans(_load(weight_0 + first, hidden, step, hidden))
        grad_rectified = _dot(tl.where(inner_mask != 0, grad_inner, 0.0), chunk_0, grad_rectified)
    return grad_h + tl.where(_load(relu_masks, tile_size, hidden, hidden) != 0, grad_rectified, 0.0)


@triton.jit
@no_type_check
def _relu(h):
    """max(h, 0); NaN stays NaN, as in PyTorch."""
    return tl.maximum(h, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
@no_type_check
def _dot(a, b, added):
    """a @ b + added; a is converted to the dtype of b."""
    a = a.to(b.dtype)
    if _INTERPRETED:
        # the interpreter multiplies bfloat16 as if it were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, added, input_precision="ieee")


@triton.jit
@no_type_check
def _row(first, width: tl.constexpr):
    return tl.load(first + tl.arange(0, width))[None, :]


@triton.jit
@no_type_check
def _load(first, height: tl.constexpr, width: tl.constexpr, stride: tl.constexpr):
    """A part of a matrix."""
    return tl.load(_pointers(first, height, width, stride))


@triton.jit
@no_type_check
def _pointers(first, height: tl.constexpr, width: tl.constexpr, stride: tl.constexpr):
    return first + tl.arange(0, height)[:, None] * stride + tl.arange(0, width)[None, :]
