"""The nearest neighbours of vectors: an exact search with faiss.

Chosen among faiss-cpu 1.15.1, usearch 2.26.6 and scikit-learn 1.9.1:

* Speed: the 8 nearest of 100,000 vectors of 512 numbers to each of them took faiss 102 s of one core of a busy Xeon.
  For 2,000 of them faiss took 1.5 s, scikit-learn's exact search 4.1 s, usearch's 28 s. usearch's index of int8
  vectors is approximate and, to be deterministic, built on one thread: with 20,000 vectors it takes 5 s, as faiss 3 s;
  it would be the faster one from some 100,000 vectors on, and miss some neighbours.
* Licence and wheels: MIT; one wheel for Python 3.10 and later on Linux (x86-64, aarch64) and macOS 14 (arm64).
* OpenMP: every faiss wheel brings a copy of its own, as torch and scikit-learn do. On Linux, faiss and torch ran in
  one process with two threads each, 20 rounds in turn, without harm. On macOS two copies in one process are known
  to end it; so the search runs in the driver, which computes features on Ray and never imports torch.

Vectors are rounded to whole numbers so small that all sums in their inner products are exact in float32. So the
neighbours do not depend on threads, blocks or the order of additions. Time grows with the square of their number.
"""

import numpy as np
from jaxtyping import Float32, Int16, Int64

LENGTH = 4000
"""Length of the vectors before they are rounded. No partial sum of an inner product is above the square of the length
after it, which is below 2^24 for vectors of up to 30,000 numbers."""
_QUERIES_AT_ONCE = 4096


def rounded(vectors: Float32[np.ndarray, "n c"]) -> Int16[np.ndarray, "n c"]:
    """The vectors at length LENGTH, rounded to whole numbers; a zero vector stays zero."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.rint(vectors * (LENGTH / np.where(length > 0, length, 1))).astype(np.int16)


def nearest_rows(
    vectors: Int16[np.ndarray, "n c"], queries: Int64[np.ndarray, " q"], among: Int64[np.ndarray, " a"], k: int
) -> Int64[np.ndarray, "q k"]:
    """For each query the k rows with the greatest inner product, greatest first; the lower row first where equal.

    vectors: of `rounded`.
    queries, among: rows of `vectors`, ascending. A query is not its own neighbour.
    The last columns are -1 where `among` has fewer than k other rows.
    """
    import faiss  # 0.3 s

    base = np.ascontiguousarray(vectors[among], np.float32)
    n_found = min(k + 1, len(among))
    nearest = np.full((len(queries), k), -1, np.int64)
    for first in range(0, len(queries) if n_found else 0, _QUERIES_AT_ONCE):
        some = queries[first : first + _QUERIES_AT_ONCE]
        products, found = faiss.knn(vectors[some].astype(np.float32), base, n_found, metric=faiss.METRIC_INNER_PRODUCT)
        rows = among[found]
        products[rows == some[:, None]] = -np.inf  # itself, sorted last
        order = np.lexsort((rows, -products), axis=1)
        kept = np.take_along_axis(rows, order, axis=1)[:, :k]
        is_other = np.take_along_axis(products, order, axis=1)[:, :k] > -np.inf
        nearest[first : first + len(some), : kept.shape[1]] = np.where(is_other, kept, -1)
    return nearest
