"""The number of queries that a search scores, and the arithmetic of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from nemf.model.network import NeMF


@dataclass
class Count:
    """Queries of the field: reference points, each scored at its query point."""

    queries: int = 0


@contextmanager
def counted(model: NeMF) -> Iterator[Count]:
    """Counts the queries of the searches of `model`, without those of the coordinate optimisation."""
    count, scorer = Count(), model.scorer

    def counting_scorer(*args: Any, **options: Any) -> Any:
        score = scorer(*args, **options)

        def counting(reference_xy_norm: Tensor, query_index: Tensor) -> Tensor:
            count.queries += len(reference_xy_norm)
            return score(reference_xy_norm, query_index)

        return counting

    with patch.object(model, "scorer", counting_scorer):
        yield count


def flop_per_query(model: NeMF) -> int:
    """FLOP of one query: multiplications and additions of the field's layers and of the sum over 16 corners."""
    layers = [layer for layer in model.field.modules() if isinstance(layer, nn.Linear)]
    corners = 16 * model.field.n_cost_features
    return 2 * (corners + sum(layer.in_features * layer.out_features for layer in layers))
