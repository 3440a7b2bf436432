"""Exporting a labelled manifest by the name of the form."""

from collections.abc import Iterator, Sequence

from pipeline.io.manifest import Manifest
from pipeline.pseudo_labels.exports.coco import NO_NAMES, export_coco
from pipeline.pseudo_labels.exports.exported import Exported
from pipeline.pseudo_labels.exports.folder import check_new_folder
from pipeline.pseudo_labels.exports.huggingface import Images, export_huggingface
from pipeline.pseudo_labels.exports.spair import export_spair
from pipeline.pseudo_labels.labels import labelled_tables, read_provenance
from pipeline.runs.folder import KEYPOINTS, Run

FORMS = ("spair", "coco", "huggingface", "huggingface-by-reference")


def export_labels(form: str, labels_uri: str, out: str, *, named: bool, image_root: str | None) -> Iterator[str]:
    """Write the folder `out`; yields lines for people about what is in it.

    form: one of FORMS. named: whether a keypoint's id means the same in all pairs, see have_names.
    Raises ValueError as the exports do.
    """
    tables, provenance = labelled_tables(labels_uri), read_provenance(labels_uri)
    if form == "spair":
        exported = export_spair(tables, out, provenance=provenance, named=named, image_root=image_root)
    elif form == "coco":
        exported = export_coco(tables, out, provenance=provenance, named=named, image_root=image_root)
    elif form in FORMS:
        images: Images = "inline" if form == "huggingface" else "reference"
        exported = export_huggingface(tables, out, provenance=provenance, images=images, image_root=image_root)
    else:
        raise ValueError(f"labels can be exported as {', '.join(FORMS)}; got {form}")
    yield from _lines(form, out, exported)


def check_exports(words: Sequence[str], *, named: bool) -> None:
    """Raises ValueError unless `words` are forms, each with a folder that it can be written to."""
    forms, folders = words[::2], words[1::2]
    if len(forms) != len(folders) or not set(forms) <= set(FORMS):
        raise ValueError(
            f"--export is FORM FOLDER, possibly several times, where FORM is one of {', '.join(FORMS)}; "
            f"got {' '.join(words)}"
        )
    if len(set(folders)) < len(folders):
        raise ValueError(f"--export: every form needs a folder of its own; got {' '.join(words)}")
    if "coco" in forms and not named:
        raise ValueError(f"--export coco: {NO_NAMES}")
    for folder in folders:
        check_new_folder(folder)


def have_names(run: Run, pairs: str) -> bool:
    """Whether the points of a run are keypoints whose ids mean the same in all pairs of the manifest."""
    if run.points != KEYPOINTS:
        return False
    with Manifest(pairs) as manifest:
        return all(not window.rows["keypoint_id"].null_count for window in manifest.windows(["keypoint_id"], 2**16))


def _lines(form: str, out: str, exported: Exported) -> Iterator[str]:
    total = exported.labels.total
    images = f" over {exported.n_images} images" if exported.n_images else ""
    yield f"wrote {out}: {total.n_labels} labels of {total.n_pairs} pairs{images}, {form}"
    for reason, count in exported.left_out.items():
        yield f"  {count:>8} pairs left out: {reason}, for instance {exported.examples[reason]}"
