"""Which machine a job gets, and what is said where there is none."""

from typing import Any

import pytest

from cloud_train.job.models import Resources
from cloud_train.providers.cloud.machines import NoMachineError, choose, machines, similar

CLOUDS = ("aws", "gcp", "azure")


def resources(**fields: Any) -> Resources:
    return Resources.model_validate(fields)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_smallest_machine_that_fits_is_chosen(cloud: str) -> None:
    chosen = choose(cloud, resources(cpus=3, memory="10GB"))
    assert chosen.accelerator is None
    fitting = [each for each in machines(cloud) if each.accelerator is None and each.cpus >= 3 and each.memory_bytes >= 10 * 10**9]
    assert chosen.cpus == min(each.cpus for each in fitting)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_an_accelerator_is_there_in_its_number_however_it_is_written(cloud: str) -> None:
    chosen = choose(cloud, resources(accelerator="t4:1"))
    assert (chosen.accelerator, chosen.accelerators) == ("T4", 1)


def test_a_kind_that_no_machine_has_is_named_with_the_nearest() -> None:
    with pytest.raises(NoMachineError, match="no known machine with L44") as caught:
        choose("aws", resources(accelerator="L44"))
    assert str(caught.value).endswith("did you mean L4?")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_more_than_the_largest_has_is_said_with_the_largest(cloud: str) -> None:
    with pytest.raises(NoMachineError, match="the largest is"):
        choose(cloud, resources(cpus=100_000))


def test_names_that_look_alike_come_once_each() -> None:
    assert similar("gcp", "n1-standart-4")[0] == "n1-standard-4"
    assert len(set(similar("gcp", "n1-standart-4"))) == len(similar("gcp", "n1-standart-4"))
