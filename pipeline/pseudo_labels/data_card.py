"""The data card of pseudo-labels, Markdown: how many there are, how right they should be, what they were made of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from nemf.io.redact import redacted
from pipeline.pseudo_labels.label_counts import LabelCounts, Precision

CARD = "README.md"
MAX_CATEGORIES = 200
"""Maximum number of categories in the table."""
HOW_PRECISE = (
    "The expected precision is the mean of the labels' probabilities. Its 95 % interval adds the variance of a "
    "bootstrap over images and that of labels being right or wrong by chance, those of a pair together; it does not "
    "know whether the calibration holds on this data, which only annotated pairs of it can tell."
)
LICENCE = (
    "The images keep the licences and terms of use they came with, which may forbid to publish them or to use them "
    "commercially, and so may those of the matcher's weights and of the data the calibration was made on. Check all "
    "three before you publish this folder."
)


class Counted(Protocol):
    """What a card tells of a set of labels."""

    @property
    def labels(self) -> LabelCounts: ...
    @property
    def n_images(self) -> int: ...
    @property
    def left_out(self) -> Mapping[str, int]: ...
    @property
    def notes(self) -> Sequence[str]: ...


def data_card(form: str, counted: Counted, provenance: Mapping[str, Any]) -> str:
    """The card as Markdown. form: what the folder is, such as COCO's form. provenance: of the labelled manifest."""
    total = counted.labels.total
    lines = [
        "# Pseudo-labelled correspondences",
        "",
        f"Pairs of images in {form}. No person has checked the correspondences: a matcher found them, and each has the "
        "probability that it is right.",
        "",
        "| | |",
        "|---|---:|",
        f"| pairs | {total.n_pairs:,} |",
        f"| labels | {total.n_labels:,} |",
        *([f"| images | {counted.n_images:,} |"] if counted.n_images else []),
        f"| expected precision | {percent(total)} |",
        "",
        HOW_PRECISE,
        "",
        *([*(f"* {note}" for note in counted.notes), ""] if counted.notes else []),
        "## By category",
        "",
        *_by_category(counted.labels),
        "## Made of",
        "",
        "| | |",
        "|---|---|",
        *(f"| {_cell(name)} | {_cell(value)} |" for name, value in flat(provenance)),
        "",
    ]
    if counted.left_out:
        lines += ["## Left out of this folder", "", "| reason | pairs |", "|---|---:|"]
        lines += [f"| {_cell(reason)} | {count:,} |" for reason, count in counted.left_out.items()] + [""]
    return "\n".join([*lines, "## Licence", "", LICENCE, ""])


def percent(precision: Precision) -> str:
    """The expected precision with its interval, as text."""
    if precision.expected is None or precision.interval is None:
        return "not known"
    low, high = precision.interval
    return f"{100 * precision.expected:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def flat(provenance: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The provenance as names and texts; what is inside another value has both names."""
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}: ")
        elif isinstance(value, (list, tuple)):
            yield prefix + name, redacted(", ".join(map(str, value)))
        elif value is not None:
            yield prefix + name, f"{value:.6g}" if isinstance(value, float) else redacted(str(value))


def _by_category(labels: LabelCounts) -> list[str]:
    lines = ["| category | pairs | labels | expected precision |", "|---|---:|---:|---:|"]
    names = sorted(labels.by_category)
    for name in names[:MAX_CATEGORIES]:
        one = labels.by_category[name]
        lines.append(f"| {_cell(name)} | {one.n_pairs:,} | {one.n_labels:,} | {percent(one)} |")
    more = len(names) - MAX_CATEGORIES
    return [*lines, "", *([f"and {more:,} more categories.", ""] if more > 0 else [])]


def _cell(text: str) -> str:
    """Text of strangers in a table of Markdown."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "\\`")
    return " ".join(escaped.split())
