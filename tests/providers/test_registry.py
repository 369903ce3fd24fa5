"""How providers are found."""

from pathlib import Path

import pytest

from cloud_train.errors import ProviderError, UsageError
from cloud_train.providers.local import LocalProvider
from cloud_train.providers.registry import known_providers, load_provider


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions with two plugins: one that works and one that does not import."""
    folder = tmp_path / "site"
    for name, target, source in (
        ("toy", "toy_provider:Toy", "class Toy:\n    name = 'toy'\n    def __init__(self, home): self.home = home\n"),
        ("broken", "broken_provider:Broken", "import a_module_that_is_not_there\n"),
    ):
        (folder / f"{name}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / f"{name}-1.0.dist-info" / "entry_points.txt").write_text(f"[cloud_train.providers]\n{name} = {target}\n")
        (folder / f"{target.partition(':')[0]}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    return folder


def test_the_local_provider_is_built_in(tmp_path: Path) -> None:
    assert isinstance(load_provider("local", tmp_path), LocalProvider)


def test_an_installed_plugin_is_found(distributions: Path, tmp_path: Path) -> None:
    assert load_provider("toy", tmp_path).name == "toy"


def test_a_plugin_that_does_not_import_is_reported_and_hides_no_other(distributions: Path, tmp_path: Path) -> None:
    known = {provider.name: provider.error for provider in known_providers(tmp_path)}
    assert known["local"] is None
    assert known["toy"] is None
    assert known["broken"] is not None
    assert "a_module_that_is_not_there" in known["broken"]
    with pytest.raises(ProviderError, match="'broken'"):
        load_provider("broken", tmp_path)


def test_a_name_that_is_not_known_gets_the_nearest_one(distributions: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="available: aws, azure, broken, docker, gcp, local, toy") as raised:
        load_provider("tyo", tmp_path)
    assert raised.value.hint == "did you mean 'toy'?"


def test_a_built_in_provider_costs_no_look_at_the_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**unused: object) -> None:
        raise AssertionError("the installed packages were looked at")

    monkeypatch.setattr("importlib.metadata.entry_points", refuse)
    assert load_provider("local", tmp_path).name == "local"
    with pytest.raises(AssertionError):
        load_provider("toy", tmp_path)
