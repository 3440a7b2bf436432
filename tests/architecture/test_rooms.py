import re
import tomllib

import pytest
from import_matrix import ROOMS, ROOT, import_matrix


@pytest.fixture(scope="module")
def matrix() -> dict[tuple[str, str], int]:
    return dict(import_matrix())


def test_a_room_imports_only_rooms_below_it(matrix: dict[tuple[str, str], int]):
    upwards = {pair: n for pair, n in matrix.items() if ROOMS.index(pair[0]) < ROOMS.index(pair[1])}

    assert upwards == {}


def test_every_package_is_a_room_of_the_matrix():
    folders = {init.parent.name for init in (ROOT / "pipeline").glob("*/__init__.py")}

    assert folders | {"schemas", "nemf", "jobs"} == set(ROOMS)


def test_the_order_of_the_matrix_is_that_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (floors,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["pipeline"])

    of_contract = [{room.strip() for room in floor.split("|")} for floor in reversed(floors)]

    position = 2  # above schemas and nemf
    for floor in of_contract:
        assert set(ROOMS[position : position + len(floor)]) == floor
        position += len(floor)
    assert ROOMS[position:] == ("jobs",)


def test_rooms_import_no_module_of_the_same_floor(matrix: dict[tuple[str, str], int]):
    siblings = [
        ("io", "visualization"),
        ("datasets", "runs", "cluster"),
        ("matching", "evaluation"),
        ("training", "pseudo_labels", "pairing"),
    ]

    assert [(a, b) for floor in siblings for a in floor for b in floor if matrix.get((a, b))] == []


def test_the_page_of_the_architecture_links_every_room_and_only_files_that_exist():
    page = ROOT / "docs" / "architecture.md"
    links = {match for match in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")) if "://" not in match}

    rooms = {f"../pipeline/{room}" for room in ROOMS if (ROOT / "pipeline" / room).is_dir()}
    assert rooms <= links
    assert [link for link in links if not (page.parent / link).exists()] == []
