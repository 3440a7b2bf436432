"""The data sets by name, and data sets of other packages, named `package.module:function`.

A data set is a function that takes its options and yields pairs. The options are a dataclass, named by the annotation
of the function's one argument; `nemf prepare` makes its flags from them. A whole one, in a file my_package/pets.py:

    '''Pets: pets.csv with the columns image_a, image_b and breed.'''

    from collections.abc import Iterator
    from dataclasses import dataclass

    from pipeline.datasets.common.interface import DatasetOptions, PairRow, Rejected, build_or_reject
    from pipeline.datasets.common.records import CsvRow, csv_rows
    from pipeline.io import storage


    @dataclass(frozen=True, kw_only=True)
    class Options(DatasetOptions):
        '''Options of Pets, in addition to those of every data set, root and out.'''

        breed: str | None = None
        '''Only pairs of this breed.'''


    def pairs(options: Options) -> Iterator[PairRow | Rejected]:
        for row in csv_rows(storage.join(options.root, "pets.csv"), ("image_a", "image_b", "breed")):
            pair = build_or_reject(row.where, _pair, row, options.root)
            if isinstance(pair, Rejected) or options.breed in (None, pair.category):
                yield pair


    def _pair(row: CsvRow, root: str) -> PairRow:
        fields = row.fields()
        a, b = fields.text("image_a"), fields.text("image_b")
        uris = {"source_uri": storage.join(root, a), "target_uri": storage.join(root, b)}
        return PairRow(where=row.where, pair_id=f"{a}:{b}", category=fields.text("breed"), **uris)

It is used as `nemf prepare --dataset my_package.pets:pairs --root pets --breed pug --out pairs.parquet`. A data set in
this folder is the same, with a name in the table below.
"""

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

from nemf.plugins import load_attribute
from pipeline.datasets.common.interface import DatasetOptions, Note, PairRow, Rejected, UnpairedImage

BUILT_IN = {
    "animal-pose": "pipeline.datasets.animal_pose:pairs",
    "ap-10k": "pipeline.datasets.ap_10k:pairs",
    "coco": "pipeline.datasets.coco:pairs",
    "cub": "pipeline.datasets.cub:pairs",
    "folder": "pipeline.datasets.folder:pairs",
    "image-list": "pipeline.datasets.image_list:pairs",
    "mp-100": "pipeline.datasets.mp_100:pairs",
    "pf-pascal": "pipeline.datasets.pf_pascal:pairs",
    "pf-willow": "pipeline.datasets.pf_willow:pairs",
    "photographs": "pipeline.datasets.photographs:pairs",
    "soco": "pipeline.datasets.soco:pairs",
    "spair": "pipeline.datasets.spair:pairs",
    "spair-u": "pipeline.datasets.spair_u:pairs",
    "table": "pipeline.datasets.table:pairs",
    "tss": "pipeline.datasets.tss:pairs",
}
"""The data sets of this package: name to `package.module:function`."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set: a function and the options it takes."""

    pairs: Callable[[DatasetOptions], Iterator[PairRow | Rejected | Note | UnpairedImage]]
    """Every pair, or image to be paired, in an order that depends on the options and the files' content alone.

    Raises ValueError or FileNotFoundError when there is nothing to read at all (no such split, no list of pairs).
    """
    options: type[DatasetOptions]
    description: str
    """The docstring of the data set's module."""


def load_dataset(name: str) -> Dataset:
    """The data set called `name`, or the one at `package.module:function`. Raises ValueError if there is none."""
    module_name, _, function_name = BUILT_IN.get(name, name).partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise ValueError(
            f"there is no data set {name!r}; there are: {', '.join(BUILT_IN)}; and package.module:function for your own"
        )
    function = load_attribute(f"{module_name}:{function_name}", f"data set {name!r}")
    if not inspect.isfunction(function):
        raise ValueError(f"data set {name!r}: {module_name} has no function {function_name}")
    description = inspect.getdoc(sys.modules[module_name]) or ""
    return Dataset(pairs=function, options=_options_of(function, name), description=description)


def summaries() -> dict[str, str]:
    """The first line of each built-in data set's docstring, by name, read without importing the modules."""
    lines = {}
    for name, location in BUILT_IN.items():
        spec = importlib.util.find_spec(location.partition(":")[0])
        assert spec is not None
        assert spec.origin is not None
        docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
        lines[name] = docstring.partition("\n")[0]
    return lines


def _options_of(function: Callable[..., object], name: str) -> type[DatasetOptions]:
    """The type of the function's one argument."""
    arguments = list(inspect.signature(function).parameters)
    options = get_type_hints(function).get(arguments[0]) if len(arguments) == 1 else None
    if not (inspect.isclass(options) and issubclass(options, DatasetOptions)):
        raise ValueError(
            f"data set {name!r}: {function.__name__} must take one argument, annotated with its options, which are "
            "pipeline.datasets.common.interface.DatasetOptions or a dataclass that inherits from it"
        )
    return options
