"""Writes docs/results.md: published PCK, and this project's own numbers.

Published numbers are those of pipeline.evaluation.published. usage: python -m benchmarks.results_page
"""

from pathlib import Path

import pandas as pd

from pipeline.evaluation.published import published

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
COMPARISON = Path(__file__).parent / "results" / "comparison.md"
ABLATIONS = Path(__file__).parent / "results" / "ablations.md"

_ALPHAS = (0.01, 0.05, 0.1)
_SECTIONS = (
    ("SPair-71k, test split", "spair", ("all",)),
    ("SPair-71k, geometry-aware keypoints", "spair", ("geometry-aware",)),
    ("SPair-U", "spair-u", ("all",)),
    ("AP-10K", "ap-10k", ("intra-species", "cross-species", "cross-family")),
    ("MP-100", "mp-100", ("mean of domains", "clothing", "animal_body_unseen")),
    ("SOCO", "soco", ("CC", "SOC", "Cross-SOC")),
    ("PF-PASCAL", "pf-pascal", ("all",)),
    ("PF-WILLOW", "pf-willow", ("all",)),
)
_LABELS = ["method", "labels", "backbone", "protocol", "direction", "source", "first_hand"]
_OWN = (
    ("nearest neighbours, MobileNetV1", "14.0", "29.8"),
    ("nemf-small", "39.3", "53.6"),
    ("nemf-mobilenet (recipe)", "44.1", "58.4"),
)
"""Matcher and its PCK@.05 and PCK@.1, as docs/measured.md has them."""

_BEFORE = """\
# Results: what papers published, and what is measured here

`python -m benchmarks.results_page` writes this page from
[published.csv](../pipeline/evaluation/published.csv); change that file, not this page.

PCK in percent. Numbers compare only within one protocol, one direction and one list of pairs: rows of one table are
grouped by protocol and need not be in order of merit. `nemf evaluate` sets a run beside those that compare with it.

- labels: what people must annotate for the method. `none`: a backbone used as it is.
- own: yes where the number was read in the method's own paper or code, no where it was read elsewhere.
- `spair`: average over images, T of the target's box. Tables of several methods are under this name; the size of the
  image in which they measure may differ. `marco`: 770 x 770 squash. `geoaware-point`: average over keypoints, which is
  higher by several points and compares with no other row. `unknown`: nothing public gives it. For AP-10K it is open:
  published evaluators differ in the true points (one halves the coordinates of hidden ones) and draw lists of pairs of
  their own.

## Of this project

SPair-71k, 3,104 test pairs of five classes (cat, cow, dog, horse, sheep), protocol `spair`. **Of this slice only, so
not comparable with any table below**, which are of whole test sets.

| matcher | PCK@.05 | PCK@.1 |
|---|---:|---:|
"""

_ALIKE = """\

## Trained alike: NeMF, PMNC, LPMFlow

One backbone (MobileNetV1 with its ImageNet weights, trained on with each network), the same pairs of Animal-Pose and
photographs, images of 256 pixels, 400 steps of 4 pairs, 300 + 100 of them the two stages of NeMF and 200 + 200 those of
LPMFlow:

    python -m benchmarks.comparison --data data --out runs/comparison --weights mobilenetv1_100.safetensors \\
        --steps 400 --limit 126 --manifests spair.parquet,willow.parquet --results results \\
        --same-hours-as nemf-mobilenet

A first look at what minutes of training buy, not at what the networks can do: the authors of LPMFlow train theirs
on 300 times as many pairs. PCK in percent, average over images, with 95 % intervals; val: validation pairs of
Animal-Pose, spair: of SPair-71k's slice, willow: of PF-WILLOW, at equal distances. Nearest neighbours with
`window=0`. Processor time of one thread; other work took 86 % of the machine, 52 % for the rows of 177 and 68 steps,
and times of one matcher differ up to threefold between the sets for that reason alone; hours are by the clock.

* **NeMF** is the best on animals after the shortest training: its descriptors learn before there is a cost volume.
* **PMNC** is better than the neighbours on every set, and the best of the four on PF-WILLOW's rigid objects.
* **LPMFlow** is better than the neighbours on animals, not on PF-WILLOW. It owes that to the descriptors of its
  tokens, which learn first: the flow has 20.2, 20.5 and 21.2 at .1 (100 validation pairs) after 100, 150 and 200
  steps of those alone, and 21.6, 20.5, 20.8 and 21.1 after 50, 100, 150 and 200 steps of all of it. On tokens that
  had learned by 400 steps of 8 pairs it has 26.1, and 27.0 after 50 steps of all of it. Without that beginning, and
  with losses that read correlations as the flow does, it had 10 after 300 steps: a correlation that is only as sure
  as it is right sends such a flow to the mean of all that is likely, near the middle of the image.

**The same hours** instead of the same steps: the rows of 177 and 68 steps are PMNC and LPMFlow trained from the
beginning for as long as NeMF's 400 steps take, .07 hours (one seed; their last steps, which no validation chose). NeMF
stays the best on animals and PMNC on PF-WILLOW. PMNC has what it has after 400 steps: most of what it learns here it
learns in the first 100. LPMFlow, after 34 steps of its tokens and 34 of all of it, is not above the neighbours at .1 on
any set. These six rows were trained and measured later than the others, by the functions of the same command.

How all three went on, read off the trainings of 400 steps: PCK@.1 of 100 validation pairs, one seed, the rates of
learning not yet fallen but in the last row of each.

| hours | NeMF | PMNC | LPMFlow |
|---:|---:|---:|---:|
| .04 | 29.6, its descriptors | 24.1 | 20.5, its tokens |
| .07 to .08 | 28.1 | 24.2 | 21.2 (.05), its tokens |
| .13 to .16 | | 25.2 | 21.6 |
| .31, .40 | | | 20.8, 21.1 |

So hours change nothing in their order on animals: after .04 of them NeMF is ahead of what PMNC has after .16 and
LPMFlow after .40.

"""

_ABLATED = """\

## One part changed: PMNC, LPMFlow

    python -m benchmarks.ablations --data data --out runs/ablations --weights mobilenetv1_100.safetensors \\
        --results results

60 validation pairs of Animal-Pose, one seed; PMNC by 100 steps of 4 pairs, LPMFlow by 20 steps of 4 pairs on the same
tokens, which had learned by 400 steps of 8 pairs in a training of an earlier build, put in the place of that stage. PCK
in percent, average over images; the difference from the whole system is of the same pairs, with its 95 % interval.

* **PMNC**: patches of 1, 3 and 7 cells cannot be told from those of 5 by so few pairs. (On 150 pairs drawn at random,
  without interval, patches of 1 cell have 8.2 / 18.4, those of 5 11.7 / 22.9.) Their time can: patches of 7 take
  half as long again, those of 1 half as long.
* **LPMFlow**: no module can be told from none, nor the 20 steps from none. Training begins where every module passes on
  what it is given, and 20 steps take none far from there; so this says nothing of the authors' table, where each is
  worth .8 to 3.6 points after a whole training. The refinement of the flows takes two fifths of the time.
* What the flow needs to gain more than its tokens bring is tokens that have learned, and steps: 50 steps were worth .9
  on these tokens (26.1 to 27.0 of 100 validation pairs), .4 on those of 200 steps of 4 pairs, and 20 steps nothing.

"""


def page() -> str:
    """The text of docs/results.md."""
    rows = published()
    own = "".join(f"| {' | '.join(cells)} |\n" for cells in _OWN)
    sections = (f"\n## {title}\n\n{_table(rows, dataset, parts)}\n" for title, dataset, parts in _SECTIONS)
    compared, ablated = (file.read_text("utf-8").partition("\n\n")[2] for file in (COMPARISON, ABLATIONS))
    return _BEFORE + own + _ALIKE + compared + _ABLATED + ablated + "".join(sections)


def _table(rows: pd.DataFrame, dataset: str, parts: tuple[str, ...]) -> str:
    """One Markdown row per method, protocol and source; one column per part of the data set and alpha."""
    columns = [(part, alpha) for part in parts for alpha in _ALPHAS]
    chosen = rows[(rows["dataset"] == dataset) & rows["category"].isin(parts) & rows["alpha"].isin(_ALPHAS)]
    table = chosen.pivot(index=_LABELS, columns=["category", "alpha"], values="pck")
    columns = [column for column in columns if column in table.columns]
    # protocols in order of name; within one the order of published.csv
    order = chosen.drop_duplicates(_LABELS).sort_values("protocol", kind="stable")
    table = table.loc[pd.MultiIndex.from_frame(order[_LABELS]), columns]
    heads = [f"@{alpha:g}" if len(parts) == 1 else f"{part} @{alpha:g}" for part, alpha in columns]
    lines = [
        f"| method | {' | '.join(heads)} | labels | backbone | protocol | source | own |",
        f"|---|{'---:|' * len(heads)}---|---|---|---|---|",
    ]
    for (method, labels, backbone, protocol, direction, source, first_hand), values in zip(
        table.index, table.to_numpy(), strict=True
    ):
        cells = ["" if pd.isna(value) else f"{value:.1f}" for value in values]
        named = f"`{protocol}`" + (", target to source" if direction == "target_to_source" else "")
        own = "yes" if first_hand else "no"
        lines.append(f"| {' | '.join([method, *cells, labels, backbone or '?', named, source, own])} |")
    return "\n".join(lines)


def main() -> None:
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
