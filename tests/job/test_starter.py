from pathlib import Path

import pytest

from cloud_train.cli.verbs.init import Kind, starter
from cloud_train.errors import UsageError
from cloud_train.job.loading import load_job


@pytest.mark.parametrize("kind", Kind)
def test_a_starter_is_a_job_that_loads(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(starter(kind, "ada"), encoding="utf-8")
    spec = load_job(tmp_path / "job.yaml").spec
    assert (spec.name, spec.model.kind) == ("ada", kind.value)


@pytest.mark.parametrize("kind", Kind)
def test_what_a_starter_offers_in_comments_is_right_too(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "my-data").mkdir()
    text = starter(kind, "ada")
    offers = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ") and ": " in line and line[2:3].islower()]
    offers = [offer for offer in offers if not offer.startswith("yaml-language-server")]
    assert offers
    (tmp_path / "job.yaml").write_text(text + "\n".join(offers) + "\n", encoding="utf-8")
    load_job(tmp_path / "job.yaml")


@pytest.mark.parametrize("kind", Kind)
def test_the_first_line_tells_an_editor_where_the_schema_is(kind: Kind) -> None:
    assert starter(kind, "ada").splitlines()[0] == "# yaml-language-server: $schema=job.schema.json"


@pytest.mark.parametrize("name", ["2024", "1e3", "null", "true", "a-b", "0x1f", "2026-01-01", "no"])
def test_every_name_that_a_job_can_have_survives(name: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(starter(Kind.SCRIPT, name), encoding="utf-8")
    assert load_job(tmp_path / "job.yaml").spec.name == name


@pytest.mark.parametrize("name", ["A/b", "", "a\n"])
def test_a_name_that_no_job_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        starter(Kind.CNN, name)
    assert caught.value.hint
