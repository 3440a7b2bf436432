"""NeMF written down plainly, as the paper and the published checkpoints define it: numpy, float64, without
optimisations.

It follows the official names and roles, starts from feature maps, takes one pair, and is slow. Tests compare the
package with it; it shares no code with the package.

    python tests/support/plain_nemf.py    writes tests/golden/nemf_plain.npz
"""

import itertools
import math
from pathlib import Path

import numpy as np
import torch
import torchvision
from official_nemf import SMALL, official_shapes, official_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "nemf_plain.npz"
SEED, HEADS = 5, 2


class PlainNemf:
    """The network of an official state dict."""

    def __init__(self, state_dict: dict[str, torch.Tensor], heads: int) -> None:
        self.w = {name: tensor.numpy().astype(np.float64) for name, tensor in state_dict.items()}
        self.heads = heads
        self.size = self.w["decoder.pos_embed_x"].shape[3]
        self.depth = 1 + max(int(name.split(".")[2]) for name in self.w if name.startswith("decoder.blocks."))

    def encode(self, source: list[np.ndarray], target: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Feature maps (c, h, w) of both images to every named intermediate result."""
        embedded = [self.embed(level, s, t) for level, (s, t) in enumerate(zip(source, target, strict=True))]
        cells = self.size**2
        m = np.concatenate(embedded).reshape(-1, cells, cells)
        for_target = np.max(m, axis=1, keepdims=True)
        for_source = np.max(m, axis=2, keepdims=True)
        for_target[for_target == 0] = 1e-30
        for_source[for_source == 0] = 1e-30
        m = m * (m / for_target) * (m / for_source)
        refined = self.aggregate(m, self.project(source), self.project(target))
        mean = refined.mean(axis=0)
        return {
            "correlation": m,
            "refined": refined,
            "refined_mean": mean,
            "coarse_flow": self.soft_argmax(mean),
            "cost_features": self.cost_features(refined, mean),
        }

    def embed(self, level: int, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        source = source / np.sqrt((source**2).sum(axis=0) + 1e-6)
        target = target / np.sqrt((target**2).sum(axis=0) + 1e-6)
        x = np.einsum("chw,cij->hwij", source, target)[None]
        ratio = source.shape[1] / self.size
        strides = {4: (2, 2), 2: (2, 1), 1: (1, 1), 0.5: (2, 1)}[ratio]
        for step, stride in enumerate(strides):
            name = f"corr_embedder.{level}.embedder.conv4d.{step}"
            x = np.maximum(self.group_norm(self.conv4d(x, f"{name}.0", stride, ratio < 1), f"{name}.1", 1), 0)
        return x

    def conv4d(self, x: np.ndarray, name: str, stride: int, transposed: bool) -> np.ndarray:
        """(c, hs, ws, ht, wt): the two branches, one 2D slice after the other."""
        query = self.branch(x, f"{name}.query_conv", stride, transposed)
        swapped = x.transpose(0, 3, 4, 1, 2)
        supp = self.branch(swapped, f"{name}.supp_conv", stride, transposed)
        return query + supp.transpose(0, 3, 4, 1, 2)

    def branch(self, x: np.ndarray, name: str, stride: int, transposed: bool) -> np.ndarray:
        """Convolve axes 1, 2; bring axes 3, 4 to the new size first."""
        if stride == 2 and transposed:
            x = resize(x, 2 * x.shape[3], 2 * x.shape[4])
        elif stride == 2:
            x = x.reshape(*x.shape[:3], x.shape[3] // 2, 2, x.shape[4] // 2, 2).max(axis=(4, 6))
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        if transposed:
            # a transposed convolution is a convolution of the map with zeros put between its cells
            spread = np.zeros((x.shape[0], stride * x.shape[1], stride * x.shape[2], *x.shape[3:]))
            spread[:, ::stride, ::stride] = x
            x, stride = spread, 1
            weight = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0), (0, 0)])
        rows, columns = x.shape[1] // stride, x.shape[2] // stride
        out = np.zeros((len(bias), rows, columns, *x.shape[3:]))
        for row, column in itertools.product(range(rows), range(columns)):
            window = padded[:, stride * row : stride * row + 3, stride * column : stride * column + 3]
            out[:, row, column] = np.einsum("ocij,cijtu->otu", weight, window) + bias[:, None, None]
        return out

    def group_norm(self, x: np.ndarray, name: str, groups: int) -> np.ndarray:
        parts = x.reshape(groups, -1)
        parts = (parts - parts.mean(axis=1, keepdims=True)) / np.sqrt(parts.var(axis=1, keepdims=True) + 1e-5)
        scale, shift = (self.w[f"{name}.{part}"].reshape(-1, 1, 1, 1, 1) for part in ("weight", "bias"))
        return parts.reshape(x.shape) * scale + shift

    def project(self, features: list[np.ndarray]) -> np.ndarray:
        """(level, cell, d)."""
        resized = [resize(level, self.size, self.size).reshape(len(level), -1).T for level in features]
        return np.stack([self.linear(cells, f"proj.{level}") for level, cells in enumerate(resized)])

    def aggregate(self, m: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        x = self.refine_cells(m.transpose(0, 2, 1), target).transpose(0, 2, 1) + m
        return self.refine_cells(x, source) + m

    def refine_cells(self, m: np.ndarray, features: np.ndarray) -> np.ndarray:
        px, py = self.w["decoder.pos_embed_x"][0], self.w["decoder.pos_embed_y"][0]
        channels = len(m) // len(features)
        x = np.zeros((*m.shape[:2], m.shape[2] + features.shape[2]))
        for channel, cell in itertools.product(range(len(m)), range(m.shape[1])):
            level, (row, column) = channel // channels, divmod(cell, self.size)
            position = np.concatenate([px[level, 0, column], py[level, row, 0]])
            x[channel, cell] = np.concatenate([m[channel, cell], features[level, cell]]) + position
        for index in range(self.depth):
            block = f"decoder.blocks.{index}"
            x = x + self.attention(self.layer_norm(x, f"{block}.norm1"), f"{block}.attn")
            x = x + self.mlp(self.layer_norm(x, f"{block}.norm4"), f"{block}.mlp2")
            x = x.transpose(1, 0, 2)
            x = x + self.attention(self.layer_norm(x, f"{block}.norm3"), f"{block}.attn_multiscale")
            x = x.transpose(1, 0, 2)
            x = x + self.mlp(self.layer_norm(x, f"{block}.norm2"), f"{block}.mlp")
        return self.linear(x, "decoder.proj")

    def attention(self, x: np.ndarray, name: str) -> np.ndarray:
        """(set, token, dim): one set and one head after the other."""
        out = np.zeros_like(x)
        width = x.shape[2] // self.heads
        qkv = self.linear(x, f"{name}.qkv")
        for index, head in itertools.product(range(len(x)), range(self.heads)):
            start = head * width
            q, k, v = (qkv[index, :, part * x.shape[2] + start :][:, :width] for part in range(3))
            out[index, :, start : start + width] = softmax(q @ k.T / math.sqrt(width), axis=1) @ v
        return self.linear(out, f"{name}.proj")

    def mlp(self, x: np.ndarray, name: str) -> np.ndarray:
        hidden = self.linear(x, f"{name}.fc1")
        erf = np.vectorize(math.erf)(hidden / math.sqrt(2))
        return self.linear(hidden * (1 + erf) / 2, f"{name}.fc2")

    def layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def soft_argmax(self, mean: np.ndarray) -> np.ndarray:
        flow = np.zeros((2, self.size, self.size))
        centres = np.linspace(-1, 1, self.size)
        weight = softmax(mean / 0.02, axis=0)
        for source, target in itertools.product(range(self.size**2), repeat=2):
            (source_row, source_column), (row, column) = divmod(source, self.size), divmod(target, self.size)
            flow[:, row, column] += weight[source, target] * np.array([centres[source_column], centres[source_row]])
        return flow

    def cost_features(self, refined: np.ndarray, mean: np.ndarray) -> np.ndarray:
        x = np.concatenate([refined, mean[None]]).reshape(-1, self.size, self.size, self.size, self.size)
        name = "mlp_model.cost_embedding.embedder.conv4d.0"
        return np.maximum(self.group_norm(self.conv4d(x, f"{name}.0", 1, False), f"{name}.1", 4), 0)

    def logit(
        self,
        cost_features: np.ndarray,
        source_xy: np.ndarray,
        target_xy: np.ndarray,
        encoded_xy: np.ndarray | None = None,
    ) -> float:
        """The field at one pair of points; `encoded_xy` stands for the source point in the position's encoding."""
        phi = bilinear(bilinear(cost_features, source_xy), target_xy)
        position = [encode(source_xy if encoded_xy is None else encoded_xy), encode(target_xy)]
        h = self.linear(np.concatenate(position), "mlp_model.mlp.0.fc_p")
        for index in range(3):
            h = h + self.linear(phi, f"mlp_model.mlp.0.fc_c.{index}")
            block = f"mlp_model.mlp.0.blocks.{index}"
            h = h + self.linear(np.maximum(self.linear(np.maximum(h, 0), f"{block}.fc_0"), 0), f"{block}.fc_1")
        return float(self.linear(np.maximum(h, 0), "mlp_model.mlp.0.fc_out")[0])


def patchmatch(plain: PlainNemf, cost_features: np.ndarray, start: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """start (2, h, w), noise (iterations, h, w, 2) to (2, h, w), alpha 0.1; one pixel after the other."""
    _, height, width = start.shape
    field = start.copy()
    for draws in noise:
        old = field.copy()
        for y, x in itertools.product(range(height), range(width)):
            target = np.array([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1])
            left, right = abs(x - 1), width - 1 - abs(width - 1 - (x + 1))
            upper, lower = abs(y - 1), height - 1 - abs(height - 1 - (y + 1))
            candidates = [old[:, y, x], old[:, y, left], old[:, y, right], old[:, upper, x], old[:, lower, x]]
            scores = [plain.logit(cost_features, candidate, target) for candidate in candidates]
            best = candidates[int(np.argmax(scores))]
            tried = best + 2 * 0.1 * (draws[y, x] - 0.5)
            if plain.logit(cost_features, tried, target) > max(scores):
                best = tried
            field[:, y, x] = np.clip(best, start[:, y, x] - 0.1, start[:, y, x] + 0.1)
    return field


def optimise(
    plain: PlainNemf, cost_features: np.ndarray, start: np.ndarray, target: np.ndarray, steps: int, lr: float
) -> np.ndarray:
    """One point's AdamW, its gradient by finite differences through the cost features alone."""
    xy, momentum, square = start.copy(), np.zeros(2), np.zeros(2)

    def loss(moved: np.ndarray) -> float:
        return math.log1p(math.exp(-plain.logit(cost_features, moved, target, encoded_xy=xy)))

    for step in range(steps):
        rate = 1e-6 + (lr - 1e-6) * (1 + math.cos(math.pi * max(step - 1, 0) / steps)) / 2
        gradient = np.array([(loss(xy + d) - loss(xy - d)) / 2e-7 for d in 1e-7 * np.eye(2)])
        momentum = 0.9 * momentum + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        xy = xy * (1 - rate * 0.01)
        unbiased = momentum / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
        xy = xy - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        xy = np.clip(xy, start - 0.1, start + 0.1)
    return xy


def encode(xy: np.ndarray) -> np.ndarray:
    z = 2 * xy + 3
    angles = [f * value for value in z for f in np.linspace(1, 2**9, 10)]
    return np.array([*map(math.sin, angles), *map(math.cos, angles), *z])


def bilinear(maps: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(c, h, w, ...) at one point; zero outside."""
    height, width = maps.shape[1:3]
    x, y = (xy + 1) / 2 * np.array([width - 1, height - 1])
    total = np.zeros((maps.shape[0], *maps.shape[3:]))
    for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < height and 0 <= column < width:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * maps[:, row, column]
    return total


def resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """The last two axes, bilinearly, corners on corners."""
    for axis, size in ((-2, height), (-1, width)):
        place = np.linspace(0, x.shape[axis] - 1, size)
        low = np.minimum(np.floor(place).astype(int), x.shape[axis] - 2)
        weight = (place - low).reshape((-1, 1) if axis == -2 else (-1,))
        x = np.take(x, low, axis) * (1 - weight) + np.take(x, low + 1, axis) * weight
    return x


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def resnet18_features(state_dict: dict[str, torch.Tensor], image: np.ndarray) -> list[np.ndarray]:
    """The sums before the last ReLU of the four layers, (c, h, w), of a normalised image (3, h, w)."""
    network = torchvision.models.resnet18().double().eval()
    prefix = "feature_extraction.backbone."
    network.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    )
    maps = []
    with torch.no_grad():
        x = network.maxpool(torch.relu(network.bn1(network.conv1(torch.from_numpy(image)[None]))))
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in layer:
                identity = x if block.downsample is None else block.downsample(x)
                total = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))) + identity
                x = torch.relu(total)
            maps.append(total[0].numpy())
    return maps


def make_golden() -> dict[str, np.ndarray]:
    """All values that the tests compare, from noise images of 64 x 64."""
    state_dict = official_state_dict(official_shapes(**SMALL), SEED)
    plain = PlainNemf(state_dict, HEADS)
    generator = np.random.default_rng(SEED)
    source, target = generator.standard_normal((2, 3, 64, 64)).round(2)
    features = [resnet18_features(state_dict, image) for image in (source, target)]
    arrays = plain.encode(*features)
    cost = arrays["cost_features"]
    query_source_xy, query_target_xy = generator.uniform(-1.1, 1.1, (2, 40, 2)).round(3)
    start = resize(arrays["coarse_flow"], 5, 7)
    noise = generator.random((4, 5, 7, 2)).round(4)
    target_xy = generator.uniform(-1, 1, (6, 2)).round(3)
    start_xy = generator.uniform(-0.9, 0.9, (6, 2)).round(3)
    queries = zip(query_source_xy, query_target_xy, strict=True)
    points = zip(start_xy, target_xy, strict=True)
    arrays.update(
        source=source,
        target=target,
        query_source_xy=query_source_xy,
        query_target_xy=query_target_xy,
        query_logits=np.array([plain.logit(cost, s, t) for s, t in queries]),
        noise=noise,
        field=patchmatch(plain, cost, start, noise),
        start_xy=start_xy,
        target_xy=target_xy,
        optimised_xy=np.array([optimise(plain, cost, s, t, 12, 2e-3) for s, t in points]),
    )
    return {name: array.astype(np.float32) for name, array in arrays.items()}


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **make_golden())
