import pytest

from benchmarks import results_page
from pipeline.evaluation.published import published


def test_the_page_is_that_of_the_published_numbers():
    assert results_page.PAGE.read_text("utf-8") == results_page.page(), "python -m benchmarks.results_page writes it"


@pytest.mark.parametrize("method", ["NeMF", "MARCO", "3D-SC"])
def test_a_row_has_the_methods_numbers_at_all_three_alphas(method: str):
    rows = published().query("method == @method and dataset == 'spair' and category == 'all'")
    page = results_page.page().split("## SPair-71k, test split")[1].split("\n## ")[0]
    cells = {cell for line in page.splitlines() if line.startswith(f"| {method} |") for cell in line.split(" | ")}
    assert {f"{value:.1f}" for value in rows[rows["alpha"].isin([0.01, 0.05, 0.1])]["pck"]} <= cells


def test_every_published_number_of_the_three_alphas_is_in_a_section():
    rows = published().query("alpha in [0.01, 0.05, 0.1]")
    parts = {(dataset, part) for _, dataset, chosen in results_page._SECTIONS for part in chosen}
    left_out = {(dataset, part) for dataset, part in zip(rows["dataset"], rows["category"], strict=True)} - parts
    assert {dataset for dataset, _ in left_out} == {"spair"}  # single classes of SPair-71k
    assert len(left_out) == 18
