from pathlib import Path

from tests.cli.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_of_verbs_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "regenerate it with: python -m tests.cli.reference > docs/cli.md"
