"""Writes the table of docs/protocols.md from the protocols themselves. usage: python -m docs.tools.protocols_page"""

from pathlib import Path

from pipeline.evaluation.protocols import PROTOCOLS

PAGE = Path(__file__).parents[1] / "protocols.md"
BEGIN, END = "<!-- begin: written by docs/tools/protocols_page.py -->\n", "<!-- end -->\n"

_PF_PASCAL = "the usual evaluators of PF-PASCAL, in images of {side} x {side}"
_LEGACY = "loaders of CATs, DHPF, CHM and others that fill up missing keypoints"
FOLLOWS = {
    "spair": "SPair-71k (Min et al., 2019), as its benchmark defines PCK",
    "nemf": "NeMF (Hong et al., NeurIPS 2022), which matches from target to source",
    "cats": "CATs (Cho et al., NeurIPS 2021)",
    "dhpf": "DHPF (Min et al., ECCV 2020)",
    "lpmflow": "LPMFlow (CVPR 2024), which takes T from the other image's box: kept for comparison with its tables",
    "geoaware-image": "Junyi42/GeoAware-SC at 99fd6b6",
    "geoaware-point": "Junyi42/GeoAware-SC at 99fd6b6, its average over keypoints",
    "pf-pascal": "PF-PASCAL in original pixels",
    **{f"pf-pascal@{side}": _PF_PASCAL.format(side=side) for side in (224, 240, 256, 512)},
    "pf-willow-bbox-kp": "PF-WILLOW with the tight box of the keypoints that exist",
    "pf-willow-bbox-legacy": f"{_LEGACY} with -1: a bug, for old tables only",
    "pf-willow-bbox-legacy@240": f"{_LEGACY} with -2: a bug, for old tables only",
    "spair-dagger": "PCK-dagger of MehmetAygun/demistfy_correspondence at 9d910c4, with the kinds of error",
    "spair-geometry-aware": "Junyi42/GeoAware-SC at 99fd6b6, its geometry-aware subset",
    "geco": "reginehartwig/geco at 03c8314, in original pixels",
    "kap": "VICO-UoE/SphericalMaps at 620fe28; differences in pipeline/evaluation/kap.py",
    "marco": "visinf/MARCO at 1ec16b9",
    "marco-ap10k": "visinf/MARCO at 1ec16b9, its reader of AP-10K",
    "ap10k": "Junyi42/GeoAware-SC at 99fd6b6, without its bug with occluded keypoints",
    "ap10k-geoaware": "Junyi42/GeoAware-SC at 99fd6b6, with that bug: manifests of `--occluded halved` only",
    "soco": "GenIntel/SOCO at 3cfdad9: SOC and Cross-SOC",
    "soco-cc": "GenIntel/SOCO at 3cfdad9: CC",
    "cub-dem": "MehmetAygun/demistfy_correspondence at 9d910c4",
    "cub-asic": "kampta/asic at 7124b93; differences in [data sets](datasets.md#cub)",
    "cub-geco": "reginehartwig/geco at 03c8314; differences in [data sets](datasets.md#cub)",
    "tss": "t-taniai/TSS_CVPR2016_EvaluationKit at e7b9e3d",
}
"""What each protocol follows: a paper, or published code at the commit that was read."""


def table() -> str:
    """The protocols in Markdown: name, what it says, what it follows."""
    lines = ["| name | in words | known by | follows |", "|---|---|---|---|"]
    for name, protocol in PROTOCOLS.items():
        direction, *others = protocol.directions
        words = protocol.describe(direction).rsplit(", average over", 1)[0] + "".join(
            f"; {other.replace('_', ' ')} as well" for other in others
        )
        column = "kap" if protocol.kap else protocol.column
        lines.append(f"| `{name}` | {words} | `{column}` | {FOLLOWS[name]} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/protocols.md as it should be: its own text round the table."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
