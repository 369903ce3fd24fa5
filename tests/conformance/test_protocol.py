"""What the provider itself has to answer, asked without the orchestrator in between."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, replace
from threading import Barrier
from typing import Any

import pytest

from cloud_train.errors import ProviderError
from cloud_train.orchestrator.home import Home
from cloud_train.providers.base import AlreadyLaunchedError, Handle, Observation, Provider
from cloud_train.providers.registry import load_provider
from cloud_train.run import layout
from cloud_train.run.plan import Plan
from cloud_train.run.record import AttemptStatus
from cloud_train.run.states import Cause, State
from cloud_train.run.streams import open_stream
from cloud_train.spec.problems import JobFileError
from tests.conformance.bench import FAR_PACE, NEAR_PACE, UNTIL_LET_GO, Bench
from tests.support import wait_until

SECRET = "sesame-open-4711"
WAITING = f"echo started; {UNTIL_LET_GO}"


def wait_for_end(provider: Provider, handle: Handle) -> None:
    pace = FAR_PACE if provider.capabilities.stops_slowly else NEAR_PACE
    wait_until(lambda: provider.observe(handle).state.is_end, "the provider says that it has ended", 60, pace)


def output(bench: Bench, plan: Plan) -> bytes:
    return open_stream(bench.store, f"{plan.run_id}/{layout.output_log(plan.attempt)}").read(0)


def test_it_goes_by_its_name_and_says_what_it_can(bench: Bench, provider: Provider) -> None:
    assert provider.name == bench.place.name
    can = provider.capabilities
    assert set(can.enforces) <= {"accelerator", "cpus", "memory"}
    assert set(can.stores) <= {"file", "s3", "gs", "az"}
    assert can.stores
    assert can.max_nodes >= 1


def test_rendering_is_pure_and_its_request_is_plain_data_without_secrets(
    bench: Bench, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    plan = bench.plan("true", secrets=["MY_TOKEN"])
    files = sorted(bench.folder.rglob("*"))
    request = provider.render(plan)
    assert provider.render(plan) == request
    assert load_provider(provider.name, bench.home.folder).render(plan) == request
    assert json.loads(json.dumps(request)) == request
    assert SECRET not in json.dumps(request)
    assert sorted(bench.folder.rglob("*")) == files


def test_the_requests_of_two_attempts_differ(bench: Bench, provider: Provider) -> None:
    plan = bench.plan("true")
    requests = [provider.render(each) for each in (plan, replace(plan, attempt=2), replace(plan, run_id=f"{plan.run_id[:-4]}zzzz"))]
    assert len({json.dumps(request, sort_keys=True) for request in requests}) == 3


def test_checking_finds_nothing_in_a_good_request_and_names_the_mistake_in_a_bad_one(bench: Bench, provider: Provider) -> None:
    request = provider.render(bench.plan("true"))
    before = json.dumps(request)
    assert provider.check(request) == []
    problems = provider.check(bench.place.spoil(request))
    assert problems
    assert all(problems), "each is a sentence"
    assert json.dumps(request) == before


def test_an_attempt_is_launched_once(bench: Bench, provider: Provider) -> None:
    plan = bench.prepared(bench.plan(WAITING))
    handle = provider.launch(provider.render(plan), {})
    with pytest.raises(AlreadyLaunchedError):
        provider.launch(provider.render(plan), {})
    bench.let_go(plan.run_id)
    wait_for_end(provider, handle)
    assert output(bench, plan) == b"started\n"


def test_of_many_launches_at_once_one_succeeds(bench: Bench, home: Home, provider: Provider) -> None:
    plan = bench.prepared(bench.plan(WAITING))
    together = Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        launches = [pool.submit(launched, load_provider(plan.provider, home.folder), plan, together) for _ in range(4)]
        wait(launches, timeout=30)
        bench.let_go(plan.run_id)
    [handle] = [handle for launch in launches if (handle := launch.result())]
    wait_for_end(provider, handle)
    assert output(bench, plan) == b"started\n"


def test_an_attempt_that_has_ended_is_not_run_again(bench: Bench, provider: Provider) -> None:
    plan = bench.prepared(bench.plan("echo started"))
    handle = provider.launch(provider.render(plan), {})
    wait_for_end(provider, handle)
    for _ in range(2):
        before = bench.store.get(f"{plan.run_id}/{layout.status(1)}")
        with suppress(AlreadyLaunchedError):  # a provider may also start a worker that finds the attempt ended and goes
            wait_for_end(provider, provider.launch(provider.render(plan), {}))
        assert bench.store.get(f"{plan.run_id}/{layout.status(1)}") == before
        assert output(bench, plan) == b"started\n"
        provider.clean_up(handle)


def test_an_attempt_that_was_never_launched_is_not_found(bench: Bench, provider: Provider) -> None:
    plan = bench.prepared(bench.plan("true"))
    assert provider.find(plan.run_id, 1, plan.store, plan.provider_settings) is None
    handle = provider.launch(provider.render(plan), {})
    assert provider.find(plan.run_id, 2, plan.store, plan.provider_settings) is None
    wait_for_end(provider, handle)


def test_a_launch_whose_handle_was_lost_is_found_and_can_be_steered(bench: Bench, home: Home, provider: Provider) -> None:
    plan = bench.prepared(bench.plan(WAITING))
    provider.launch(provider.render(plan), {})
    other = load_provider(plan.provider, home.folder)
    handle = other.find(plan.run_id, 1, plan.store, plan.provider_settings)
    assert handle is not None
    assert (handle.run_id, handle.attempt, handle.provider, handle.store) == (plan.run_id, 1, plan.provider, plan.store)
    bench.wait_until(lambda: other.observe(handle).state is State.RUNNING, "it is running")
    bench.wait_until(lambda: has_started(bench, plan), "its program has started")
    other.cancel(handle)
    wait_for_end(other, handle)
    assert status(bench, plan).cause is Cause.PREEMPTED, "told to stop, and nobody had marked it as cancelled"


def test_an_attempt_is_found_after_its_end(bench: Bench, provider: Provider) -> None:
    plan = bench.prepared(bench.plan("true"))
    handle = provider.launch(provider.render(plan), {})
    wait_for_end(provider, handle)
    found = provider.find(plan.run_id, 1, plan.store, plan.provider_settings)
    assert found is not None
    assert provider.observe(found).state.is_end


def test_secrets_reach_the_worker_and_a_handle_is_plain_data_without_them(bench: Bench, provider: Provider) -> None:
    plan = bench.prepared(bench.plan("echo ${#MY_TOKEN}", secrets=["MY_TOKEN"]))
    handle = provider.launch(provider.render(plan), {"MY_TOKEN": SECRET})
    found = provider.find(plan.run_id, 1, plan.store, plan.provider_settings)
    assert found is not None
    for each in (handle, found):
        assert json.loads(json.dumps(each.reference)) == each.reference
        assert SECRET not in json.dumps(asdict(each))
    wait_for_end(provider, handle)
    assert output(bench, plan) == b"16\n", "and the program has it"


def test_observing_never_raises_for_an_attempt_that_it_does_not_know(bench: Bench, provider: Provider) -> None:
    plan = bench.prepared(bench.plan("true"))
    handle = provider.launch(provider.render(plan), {})
    wait_for_end(provider, handle)
    provider.clean_up(handle)
    for unknown in (handle, replace(handle, reference=misled(handle.reference)), replace(handle, run_id=f"{plan.run_id[:-4]}zzzz")):
        observation = provider.observe(unknown)
        assert isinstance(observation, Observation)
        assert observation.state.is_end or observation.cause is Cause.UNKNOWN, "nothing is made up"


def test_cancelling_and_tidying_an_attempt_that_has_ended_changes_nothing(bench: Bench, provider: Provider) -> None:
    plan = bench.prepared(bench.plan("exit 3"))
    handle = provider.launch(provider.render(plan), {})
    wait_for_end(provider, handle)
    before = bench.store.get(f"{plan.run_id}/{layout.status(1)}")
    for _ in range(2):
        provider.cancel(handle)
        provider.cancel(handle, force=True)
        provider.clean_up(handle)
    assert bench.store.get(f"{plan.run_id}/{layout.status(1)}") == before
    bench.wait_until(lambda: not bench.place.leftovers(bench.home.folder, plan.run_id), "nothing of it is left")


def test_the_providers_own_log_is_read_in_pieces_without_loss_or_doubles(bench: Bench, provider: Provider) -> None:
    plan = bench.prepared(bench.plan("true"))
    bench.store.put(f"{plan.run_id}/{layout.RUN}", b"{}")  # so that the worker has a reason to talk before it can keep a log
    handle = provider.launch(provider.render(plan), {})
    pieces = list(read_until_end(provider, handle))
    whole, end = read_whole(provider, handle)
    assert b"was changed after this attempt was submitted" in whole
    assert b"".join(pieces) == whole
    assert provider.logs(handle, end) == (b"", end)


def read_whole(provider: Provider, handle: Handle) -> tuple[bytes, str | None]:
    """The log from its beginning, and where it ends."""
    whole, cursor = provider.logs(handle, None)
    while (piece := provider.logs(handle, cursor))[0]:
        whole, cursor = whole + piece[0], piece[1]
    return whole, cursor


def read_until_end(provider: Provider, handle: Handle) -> Iterator[bytes]:
    """The log in pieces, each read from where the one before ended, until nothing can come any more."""
    cursor: str | None = None
    while True:
        ended = provider.observe(handle).state.is_end
        piece, cursor = provider.logs(handle, cursor)
        yield piece
        if ended and not piece:
            return


def launched(provider: Provider, plan: Plan, together: Barrier) -> Handle | None:
    """The handle, or None if the attempt was launched before; waits until all are ready to launch."""
    together.wait(30)
    try:
        return provider.launch(provider.render(plan), {})
    except AlreadyLaunchedError:
        return None


def misled(value: Any) -> Any:
    """A reference of the same form in which every name names nothing."""
    if isinstance(value, dict):
        return {key: misled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [misled(each) for each in value]
    return "no-such-thing-4711" if isinstance(value, str) else value


def has_started(bench: Bench, plan: Plan) -> bool:
    key = f"{plan.run_id}/{layout.output_log(1)}"
    return any(info.size for info in bench.store.list(key))


def status(bench: Bench, plan: Plan) -> AttemptStatus:
    return AttemptStatus.from_json(bench.store.get(f"{plan.run_id}/{layout.status(1)}"), "status")


def test_what_it_declares_decides_what_a_plan_may_ask_for(bench: Bench, provider: Provider) -> None:
    can = provider.capabilities
    with pytest.raises(JobFileError, match="is not a store URL"):
        bench.plan("true", store="nowhere://bucket/runs")
    stores = {"file": "runs", "s3": "s3://bucket/runs", "gs": "gs://bucket/runs", "az": "az://account/container/runs"}
    for scheme in stores.keys() - set(can.stores):
        with pytest.raises(ProviderError, match="cannot reach the store"):
            bench.plan("true", store=stores[scheme])
    with pytest.raises(ProviderError, match=rf"resources\.nodes is {can.max_nodes + 1}"):
        bench.plan("true", resources={"nodes": can.max_nodes + 1})
    notes = "\n".join(bench.plan("true", resources={"cpus": 1, "memory": "1GB", "spot": True}).notes)
    for name in ("cpus", "memory"):
        assert (f"resources.{name}" in notes) is (name not in can.enforces)
    assert ("resources.spot" in notes) is (not can.spot)
