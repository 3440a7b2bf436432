"""Whatever bytes a manifest file holds: PAIRS rows, or one error that names the file; no crash, no hang."""

import io
import tempfile
from pathlib import Path

import confined
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damaged import damaged
from hypothesis import given
from make import pair_row

from pipeline.io.manifest import Manifest, read_rows
from schemas.pairs import PAIRS


def _files() -> dict[str, bytes]:
    """Small manifests in many encodings of Parquet."""
    rows = pa.Table.from_pylist(
        [
            pair_row(f"pair {n}", source_uri=f"{n % 3}.png", target_uri="1.png", source_image=b"jpeg", occlusion=1)
            for n in range(20)
        ],
        PAIRS,
    )

    def written(**options: object) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, **options)
        return buffer.getvalue()

    plain = {"compression": "none", "use_dictionary": False}
    return {
        "as it comes": written(),
        "plain": written(**plain),
        "plain, pages of version 2": written(**plain, data_page_version="2.0"),
        "dictionaries": written(compression="none"),
        "deltas": written(
            **plain, column_encoding={"pair_id": "DELTA_BYTE_ARRAY", "source_uri": "DELTA_LENGTH_BYTE_ARRAY"}
        ),
        "row groups": written(compression="zstd", row_group_size=7),
        "checksums and indexes": written(write_page_checksum=True, write_page_index=True),
    }


@confined.budget(600)
@given(damaged(_files()))
def damaged_manifests_are_rows_or_an_error(file: tuple[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pairs.parquet")
        path.write_bytes(file[1])
        failure = None
        with confined.no_side_effects():
            try:
                read(str(path))
            except (ValueError, OSError) as error:
                failure = str(error)
        assert failure is None or str(path) in failure, failure
        assert "\n" not in (failure or "")


def read(file: str) -> None:
    """Reads a manifest as a job does."""
    with Manifest(file) as manifest:
        n_ids = len(manifest.ids())
        n_rows = 0
        for _, group, first, window in manifest.windows(["source_uri", "target_uri"], 8):
            (rows,) = read_rows(file, group, np.arange(first, first + window.num_rows, dtype=np.int32)[::-1])
            assert rows.schema.equals(PAIRS)
            assert len(rows.to_pylist()) == window.num_rows
            n_rows += window.num_rows
    assert n_rows == n_ids


def test_damaged_manifests_are_rows_or_an_error() -> None:
    confined.in_own_process(__file__, megabytes=2000, seconds=120)


if __name__ == "__main__":
    confined.check(damaged_manifests_are_rows_or_an_error)
