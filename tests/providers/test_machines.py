"""Which machine a job gets, and what is said where there is none."""

from typing import Any

import pytest

from cloud_train.job.models import Resources
from cloud_train.providers.cloud.machines import (
    NoMachineError,
    between_nodes,
    choose,
    known,
    machine_of,
    machines,
    mismatches,
    similar,
    unused,
)

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


@pytest.mark.parametrize(
    ("name", "wanted", "problem"),
    [
        ("ml.m5.large", {"accelerator": "A10G"}, "it has no accelerator, but resources.accelerator asks for 1 × A10G; use ml.g5.xlarge"),
        ("ml.g4dn.xlarge", {"accelerator": "A100:8"}, "it has 1 × T4, but resources.accelerator asks for 8 × A100; use ml.p4d.24xlarge"),
        ("ml.g5.xlarge", {"accelerator": "A10G:4"}, "it has 1 × A10G, but resources.accelerator asks for 4 × A10G; use ml.g5.12xlarge"),
        ("ml.m5.large", {"memory": "64GiB"}, "it has 8GiB of memory, but resources.memory asks for 64GiB; use ml.r5.2xlarge"),
        ("ml.m5.large", {"cpus": 8}, "it has 2 cpus, but resources.cpus asks for 8; use ml.c5.2xlarge"),
    ],
)
def test_a_named_machine_that_lacks_what_the_job_asks_for_is_refused_with_one_that_has_it(
    name: str, wanted: dict[str, Any], problem: str
) -> None:
    (said,) = mismatches("aws", name, resources(**wanted))
    assert said == f"aws.machine: {name}: {problem}, or leave out aws.machine"


def test_a_named_machine_that_has_more_or_is_unknown_is_not_refused() -> None:
    assert mismatches("aws", "ml.p4d.24xlarge", resources(accelerator="A100:1", cpus=8, memory="100GB")) == []
    assert mismatches("aws", "ml.p4d.24xlarge", resources()) == []
    assert mismatches("aws", "ml.x9.9xlarge", resources(accelerator="A100")) == []
    assert mismatches("gcp", "n1-standard-8", resources(accelerator="T4:2")) == [], "of several with other accelerators, one that fits"


@pytest.mark.parametrize(
    ("wanted", "trains", "said"),
    [
        ({"accelerator": "A100:1"}, False, "ml.p4d.24xlarge: 8 × A100; you asked for 1"),
        (
            {"accelerator": "A100:1"},
            True,
            "ml.p4d.24xlarge: 8 × A100; you asked for 1; resources.processes is 1, so 7 will be idle: set it to 8 to use all",
        ),
        ({"accelerator": "H200:3", "nodes": 2}, False, "ml.p5e.48xlarge: 8 × H200 on each of 2 machines; you asked for 3"),
        (
            {"accelerator": "A10G:4", "processes": 2},
            True,
            "ml.g5.12xlarge: 4 × A10G; resources.processes is 2, so 2 will be idle: set it to 4 to use all",
        ),
        ({"accelerator": "A10G:4", "processes": 4}, True, None),
        ({"accelerator": "A10G:1"}, True, None),
        ({}, True, None),
    ],
)
def test_accelerators_that_are_paid_for_and_not_used_are_said(wanted: dict[str, Any], trains: bool, said: str | None) -> None:
    chosen = machine_of("aws", {}, resources(**wanted))
    assert chosen is not None
    assert unused(chosen, resources(**wanted), trains=trains) == said


def test_accelerators_for_which_nobody_asked_are_said_too() -> None:
    machine = known("aws", "ml.p5.48xlarge", resources())
    assert machine is not None
    assert unused(machine, resources(), trains=False) == "ml.p5.48xlarge: 8 × H100; you asked for none"


def test_a_machine_of_a_cluster_is_unknown() -> None:
    assert machine_of("azure", {"compute": "gpu-cluster"}, resources(accelerator="A100:8")) is None


@pytest.mark.parametrize("kind", ["TPU-v5e", "Trainium", "MI300X"])
def test_accelerators_that_torch_cannot_use_are_refused_in_words(kind: str) -> None:
    with pytest.raises(NoMachineError, match=f"{kind} is not supported: the usual builds of PyTorch cannot use it"):
        choose("aws", resources(accelerator=kind))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("H100", "ml.p5.4xlarge"),
        ("H100:2", "ml.p5.48xlarge"),
        ("B300:8", "ml.p6-b300.48xlarge"),
        ("RTX-PRO-6000", "ml.g7e.2xlarge"),
        ("RTX-PRO-6000:2", "ml.g7e.12xlarge"),
    ],
)
def test_the_newer_machines_of_aws_can_be_asked_for(kind: str, name: str) -> None:
    assert choose("aws", resources(accelerator=kind)).name == name


def test_of_two_machines_of_a_size_the_cheaper_family_is_chosen() -> None:
    assert choose("aws", resources(cpus=16, memory="60GiB")).name == "ml.m5.4xlarge"
    assert {each.rank for each in machines("aws") if each.cpus == 16 and not each.accelerator} == {0, 1}


@pytest.mark.parametrize(
    ("kind", "name", "count"),
    [
        ("P4", "n1-standard-4", 1),
        ("RTX-PRO-6000", "g4-standard-48", 1),
        ("rtx_pro_6000:3", "g4-standard-192", 4),
        ("NVIDIA_L4", "g2-standard-4", 1),
        ("NVIDIA_TESLA_T4:2", "n1-standard-4", 2),
        ("GB200:4", "a4x-highgpu-4g", 4),
        ("H200", "a3-ultragpu-8g", 8),
        ("B200", "a4-highgpu-8g", 8),
    ],
)
def test_googles_accelerators_can_be_asked_for_as_google_writes_them_too(kind: str, name: str, count: int) -> None:
    chosen = choose("gcp", resources(accelerator=kind))
    assert (chosen.name, chosen.accelerators) == (name, count)


def test_on_google_cloud_e2_is_preferred_to_n1_which_is_dearer() -> None:
    assert choose("gcp", resources()).name == "e2-highmem-2"
    assert choose("gcp", resources(cpus=4, memory="10GiB")).name == "e2-standard-4"
    assert choose("gcp", resources(cpus=64)).name == "n1-standard-64", "E2 ends at 32 processors"


@pytest.mark.parametrize(
    ("cloud", "name", "nodes", "said"),
    [
        ("azure", "Standard_ND96isr_H100_v5", 2, "connected by InfiniBand, which NCCL uses only if the image has libibverbs"),
        ("azure", "Standard_NC96ads_A100_v4", 2, "NCCL uses TCP between the machines; Standard_ND96asr_v4 has InfiniBand"),
        ("aws", "ml.p4d.24xlarge", 2, "connected by EFA, which NCCL uses only if the image has libfabric and the plugin aws-ofi-nccl"),
        ("aws", "ml.p4d.24xlarge", 1, None),
        ("aws", "ml.m5.large", 2, None),
        ("gcp", "g2-standard-8", 2, None),
    ],
)
def test_the_network_between_several_machines_is_said(cloud: str, name: str, nodes: int, said: str | None) -> None:
    machine = next(each for each in machines(cloud) if each.name == name)
    remark = between_nodes(cloud, machine, resources(nodes=nodes))
    assert remark is None if said is None else said in str(remark)
