import pytest

from cloud_train.environment import with_original_python_path, with_safe_python_path


@pytest.mark.parametrize(
    ("given", "kept"),
    [(".:/a", "/a"), (":/a", "/a"), ("/a:", "/a"), ("/a::/b", "/a:/b"), ("src", None), ("../x:/a:./y", "/a")],
)
def test_entries_that_depend_on_the_current_folder_are_left_out_but_not_of_a_users_own_program(given: str, kept: str | None) -> None:
    environment = with_safe_python_path({"PYTHONPATH": given, "A": "1"})
    assert environment.get("PYTHONPATH") == kept
    assert with_original_python_path(environment) == {"PYTHONPATH": given, "A": "1"}


@pytest.mark.parametrize("environment", [{"A": "1"}, {"PYTHONPATH": "/a:/b"}])
def test_an_environment_without_such_entries_stays_as_it_is(environment: dict[str, str]) -> None:
    assert with_safe_python_path(environment) == environment
    assert with_original_python_path(environment) == environment
