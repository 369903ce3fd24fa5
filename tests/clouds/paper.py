"""The three simulated clouds without machines, alike to a test: a job waits for a day, and nobody waits for a provider's pauses."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloud_train.providers.aws.client import POLICY as AWS_POLICY
from cloud_train.providers.aws.provider import SageMakerProvider
from cloud_train.providers.azure import client as azure_client
from cloud_train.providers.azure.provider import AzureMlProvider
from cloud_train.providers.base import Handle, Provider
from cloud_train.providers.gcp.client import POLICY as GCP_POLICY
from cloud_train.providers.gcp.provider import VertexProvider
from cloud_train.run.plan import Plan
from tests.clouds.aws_job import Timing
from tests.clouds.aws_simulator import aws_cloud
from tests.clouds.azure_simulator import AzureSimulator
from tests.clouds.clock import VirtualClock
from tests.clouds.gcp_jobs import Timing as GcpTiming
from tests.clouds.gcp_simulator import GcpSimulator
from tests.clouds.server import Server
from tests.providers import aws_plans, azure_plans, gcp_plans

RUN = "paper-261124-120000-abcd"
DAY = 86400.0


@dataclass
class Cloud:
    """One of them. Its ``server`` has the faults, and knows what was asked."""

    name: str
    environment: Mapping[str, str]
    provider: Provider
    plan: Plan
    """Of the run ``RUN``."""
    server: Server

    def launched(self) -> Handle:
        """The attempt, launched."""
        return self.provider.launch(self.provider.render(self.plan), {})


@contextmanager
def _aws(clock: VirtualClock, folder: Path) -> Iterator[Cloud]:
    with aws_cloud(clock=clock, timing=Timing(starting=DAY)) as cloud:
        provider = SageMakerProvider(folder, replace(AWS_POLICY, sleep=lambda _: None))
        yield Cloud("aws", cloud.environment, provider, aws_plans.plan_of(cloud.settings, RUN), cloud.server)


@contextmanager
def _gcp(clock: VirtualClock, folder: Path) -> Iterator[Cloud]:
    with GcpSimulator(folder, clock=clock, timing=GcpTiming(queued=DAY)) as google:
        provider = VertexProvider(folder, policy=replace(GCP_POLICY, sleep=lambda _: None))
        yield Cloud("gcp", google.environment, provider, gcp_plans.plan_of(settings=google.settings, run_id=RUN), google.server)


@contextmanager
def _azure(clock: VirtualClock, folder: Path) -> Iterator[Cloud]:
    with AzureSimulator(clock=clock) as simulator, pytest.MonkeyPatch.context() as patch:
        patch.setattr(azure_client, "POLICY", replace(azure_client.POLICY, sleep=lambda seconds: None))
        plan = azure_plans.plan_of(simulator.settings, run_id=RUN)
        yield Cloud("azure", simulator.environment, AzureMlProvider(folder), plan, simulator.server)


_CLOUDS: dict[str, Callable[[VirtualClock, Path], AbstractContextManager[Cloud]]] = {"aws": _aws, "gcp": _gcp, "azure": _azure}
CLOUDS = tuple(_CLOUDS)


@contextmanager
def paper_cloud(name: str, clock: VirtualClock, folder: Path) -> Iterator[Cloud]:
    """One of ``CLOUDS``, for as long as the context, in which this process's environment knows it."""
    with _CLOUDS[name](clock, folder) as cloud, pytest.MonkeyPatch.context() as environment:
        for variable, value in cloud.environment.items():
            environment.setenv(variable, value)
        yield cloud
