"""Networks loaded without torch's compiler, and the compiler as it is when it is asked for later."""

import subprocess
import sys

import torch
from torch import nn

from nemf.model.light_loading import shapes_only

SCRIPT = """
import sys
import numpy as np
import nemf
from nemf.model.light_loading import without_compiler

matcher = nemf.load_matcher("nemf-small", device="cpu")
noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
assert matcher.match(*noise, dense=True).flow_px.shape == (32, 32, 2)
assert "timm" in sys.modules
assert "torch._dynamo" not in sys.modules and "torch._dynamo.utils" not in sys.modules

with without_compiler():
    import torch
    marked = torch.compiler.disable(lambda x: torch.compiler.is_compiling())
    assert torch._dynamo.disable is not None and "torch._inductor" not in sys.modules
    assert marked(1) is False
    from torch._dynamo.utils import is_compile_supported
    from torch._dynamo.utils import counters  # no name of the stand-in: the real module is imported
import torch._dynamo
assert torch._dynamo.utils.counters is counters
assert is_compile_supported("cpu") is torch._dynamo.utils.is_compile_supported("cpu")

@torch.compile(backend="eager")
def compiled(x):
    return torch.compiler.is_compiling(), marked(x)

assert compiled(torch.ones(1)) == (True, False)  # as without the stand-in: what is marked is not compiled
print("all held")
"""


def test_the_compiler_is_not_imported_to_load_a_network_or_match_and_is_whole_when_it_is_asked_for_later():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)

    assert done.stdout == "all held\n", done.stderr


def test_networks_of_shapes_alone_have_the_shapes_and_no_memory():
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5))

    with shapes_only():
        empty = build()
        answer = empty(torch.zeros(2, 3, 8, 8))

    assert answer.shape == (2, 5)
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in build().state_dict().items()}
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


def test_only_shapes_alone_are_left_without_numbers():
    with shapes_only():
        nn.Linear(3, 3)

    weight = nn.init.normal_(torch.zeros(1000))

    assert 0.9 < weight.std() < 1.1
