"""Lists of pairs of AP-10K's images: by a fixed rule that depends on the images' ids alone, or from a Parquet file.

The rule is described in docs/datasets.md. A list has ids only, and a hash by which it is known.
"""

import hashlib
import heapq
import itertools
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.ap_10k_animals import Animal, Animals
from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.instances import MIN_SHARED_KEYPOINTS
from pipeline.datasets.common.interface import DataError, Rejected, build_or_reject, choose_split
from pipeline.datasets.common.records import parquet_rows
from pipeline.io import storage

INTRA_SPECIES, CROSS_SPECIES, CROSS_FAMILY = LEVELS = ("intra-species", "cross-species", "cross-family")
SPLITS = ("train", "val", "test")


_N_TEST_IMAGES, _N_VAL_IMAGES = 30, 20
_MAX_TRAIN_PAIRS_PER_IMAGE = 50
_MAX_PAIRS = {
    (CROSS_SPECIES, "val"): 400,
    (CROSS_SPECIES, "test"): 900,
    (CROSS_FAMILY, "val"): 20,
    (CROSS_FAMILY, "test"): 30,
}
"""Maximum number of pairs of a family, and of two families."""
_SEED = "ap-10k list 1"
"""Part of everything that is hashed; another list has another seed."""
_LIST_COLUMNS = ("source_image_id", "target_image_id", "level", "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPair:
    """One pair of a list."""

    where: str
    source_id: str
    target_id: str
    level: str
    split: str

    def line(self) -> str:
        return f"{self.source_id}\t{self.target_id}\t{self.level}\t{self.split}\n"


def list_sha256(chosen: Iterable[ListedPair]) -> str:
    """SHA-256, in hexadecimal, of the sorted lines "source id, target id, level, split" with tabs between."""
    return hashlib.sha256("".join(sorted(pair.line() for pair in chosen)).encode()).hexdigest()


def of_rule(
    animals: Animals, root: str, wanted_split: str | None, wanted_level: str
) -> Generator[Rejected, None, list[ListedPair]]:
    """Returns the pairs of the rule in the split and the levels asked for, and yields units that have none."""
    split = choose_split(wanted_split, SPLITS, root)
    levels: tuple[str, ...] = LEVELS if wanted_level == "all" else (wanted_level,)
    if split == "train":
        if wanted_level not in ("all", INTRA_SPECIES):
            raise ValueError(f"split train of ap-10k has no --level {wanted_level}; only {INTRA_SPECIES}")
        levels = (INTRA_SPECIES,)
    species = _by_species([animal for animal in animals.values() if isinstance(animal, Animal)], split)
    chosen: list[ListedPair] = []
    for level in levels:
        for unit, candidates, at_most in _units(species, level, split):
            some = _first(candidates, at_most, level, split)
            if not some:
                reason = f"unit of {level} without a pair in {split}"
                detail = f"no two of its images share {MIN_SHARED_KEYPOINTS} keypoints"
                yield Rejected(pair=unit, where=root, reason=reason, detail=detail, by_design=True)
            chosen += some
    return chosen


def _by_species(animals: list[Animal], split: str) -> dict[tuple[str, str], list[Animal]]:
    """The animals of the split by (family, species), sorted; a species without one has an empty list."""
    species = defaultdict(list)
    for animal in animals:
        species[animal.family, animal.species].append(animal)
    first, end = {
        "test": (0, _N_TEST_IMAGES),
        "val": (_N_TEST_IMAGES, _N_TEST_IMAGES + _N_VAL_IMAGES),
        "train": (_N_TEST_IMAGES + _N_VAL_IMAGES, None),
    }[split]
    return {
        key: sorted(members, key=lambda animal: _digest(animal.image_id))[first:end]
        for key, members in sorted(species.items())
    }


_Pairs = Iterable[tuple[Animal, Animal]]


def _units(
    species: dict[tuple[str, str], list[Animal]], level: str, split: str
) -> Iterator[tuple[str, _Pairs, int | None]]:
    """(name, candidate pairs, maximum number of pairs, None without one) of each species, family or two families."""
    if level == INTRA_SPECIES:
        for (_, name), members in species.items():
            at_most = _MAX_TRAIN_PAIRS_PER_IMAGE * len(members) if split == "train" else None
            yield name, itertools.combinations(members, 2), at_most
        return
    families: dict[str, list[list[Animal]]] = defaultdict(list)
    for (family, _), members in species.items():
        families[family].append(members)
    at_most = _MAX_PAIRS[level, split]
    if level == CROSS_SPECIES:
        for family, groups in families.items():
            if len(groups) > 1:
                crossed = (itertools.product(a, b) for a, b in itertools.combinations(groups, 2))
                yield family, itertools.chain.from_iterable(crossed), at_most
        return
    of_family = {family: list(itertools.chain.from_iterable(groups)) for family, groups in families.items()}
    for (family, members), (other, others) in itertools.combinations(of_family.items(), 2):
        yield f"{family}, {other}", itertools.product(members, others), at_most


def _first(candidates: _Pairs, at_most: int | None, level: str, split: str) -> list[ListedPair]:
    """The first pairs in the order of their hashes that share enough keypoints; all for None."""
    hashed = (
        (_digest(*sorted((a.image_id, b.image_id))), a, b)
        for a, b in candidates
        if len(a.labelled & b.labelled) >= MIN_SHARED_KEYPOINTS
    )
    in_order = sorted(hashed, key=lambda item: item[0]) if at_most is None else _smallest(hashed, at_most)
    chosen = []
    for digest, *both in in_order:
        source, target = sorted(both, key=lambda animal: animal.image_id, reverse=digest[-1] % 2 == 1)
        chosen.append(
            ListedPair(
                where=source.where, source_id=source.image_id, target_id=target.image_id, level=level, split=split
            )
        )
    return chosen


def _smallest(hashed: Iterable[tuple[bytes, Animal, Animal]], at_most: int) -> list[tuple[bytes, Animal, Animal]]:
    return heapq.nsmallest(at_most, hashed, key=lambda item: item[0])


def _digest(*ids: str) -> bytes:
    return hashlib.sha256(":".join((_SEED, *ids)).encode()).digest()


def of_list(uri: str, wanted_split: str | None, wanted_level: str) -> Generator[Rejected, None, list[ListedPair]]:
    """Returns the pairs of a Parquet list in the split and level asked for, and yields rows that are wrong."""
    chosen: list[ListedPair] = []
    for row in parquet_rows(uri, _LIST_COLUMNS):
        pair = build_or_reject(row.where, _listed, row)
        if isinstance(pair, Rejected):
            yield pair
        else:
            chosen.append(pair)
    split = choose_split(wanted_split, {pair.split for pair in chosen}, uri)
    return [pair for pair in chosen if pair.split == split and wanted_level in ("all", pair.level)]


def _listed(row: Fields) -> ListedPair:
    level = row.text("level")
    if level not in LEVELS:
        raise DataError(row.where, "wrong value", f"field level: expected {', '.join(LEVELS)}, got {level!r}")
    source_id, target_id = row.identity("source_image_id"), row.identity("target_image_id")
    return ListedPair(where=row.where, source_id=source_id, target_id=target_id, level=level, split=row.text("split"))


def write_list(chosen: list[ListedPair], uri: str) -> None:
    values = [[pair.source_id, pair.target_id, pair.level, pair.split] for pair in chosen]
    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _LIST_COLUMNS])
    table = pa.Table.from_pylist([dict(zip(_LIST_COLUMNS, row, strict=True)) for row in values], schema=schema)
    with storage.atomic_writer(uri) as path:
        pq.write_table(table, path, compression="zstd")
