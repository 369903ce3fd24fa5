"""docs/security.md names each border with its place in the code and its attacks: all of them exist, and no attack is left out."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ATTACKS = ROOT / "tests" / "attack"


def borders() -> list[list[str]]:
    """The cells of each row of the table of borders: border, what crosses it, where, attacks."""
    table = (ROOT / "docs" / "security.md").read_text().partition("## Where the borders are")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if " → " in line]


def test_every_border_is_at_a_place_that_there_is() -> None:
    for border, _, where, _ in borders():
        patterns = [name for name in re.findall(r"`([^`]+)`", where) if name.endswith(".py")]
        assert patterns, border
        missing = [pattern for pattern in patterns if not list((ROOT / "cloud_train").glob(pattern))]
        assert not missing, border


def test_every_border_is_attacked_and_every_attack_is_of_a_border() -> None:
    named = {name.strip() for row in borders() for name in row[-1].strip("| ").split(",")}
    assert named | {"test_security_page"} == {file.stem for file in ATTACKS.glob("test_*.py")}
