import pytest

from cloud_train.run.python_path import as_given, fixed


@pytest.mark.parametrize(
    ("given", "kept"),
    [(".:/a", "/a"), (":/a", "/a"), ("/a:", "/a"), ("/a::/b", "/a:/b"), ("src", None), ("../x:/a:./y", "/a")],
)
def test_entries_that_depend_on_the_current_folder_are_left_out_but_not_of_a_users_own_program(given: str, kept: str | None) -> None:
    environment = fixed({"PYTHONPATH": given, "A": "1"})
    assert environment.get("PYTHONPATH") == kept
    assert as_given(environment) == {"PYTHONPATH": given, "A": "1"}


@pytest.mark.parametrize("environment", [{"A": "1"}, {"PYTHONPATH": "/a:/b"}])
def test_an_environment_without_such_entries_stays_as_it_is(environment: dict[str, str]) -> None:
    assert fixed(environment) == environment
    assert as_given(environment) == environment
