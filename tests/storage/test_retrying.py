"""What retries make of a store that is busy, or whose answers get lost."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloud_train.errors import StoreError
from cloud_train.retry import RetryPolicy
from cloud_train.storage.base import (
    AccessDeniedError,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    RetriesExhaustedError,
    TransientStoreError,
)
from cloud_train.storage.local import LocalStore
from cloud_train.storage.registry import open_store
from cloud_train.storage.retrying import RetryingStore, retrying
from tests.faults import Cut, Fault, FaultProxy, Plan, Refuse, Weather
from tests.stores import StoreServer, use


@dataclass
class Clock:
    """A clock that only waiting moves."""

    now: float = 1000.0
    waits: list[float] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def policy(self, time_limit: float = 120.0) -> RetryPolicy:
        return RetryPolicy(first_wait=1.0, longest_wait=8.0, time_limit=time_limit, sleep=self.sleep, clock=self.time, jitter=lambda: 1.0)


def failing(times: int, error: StoreError) -> Callable[[], str]:
    """Fails so often, then succeeds."""
    left = [error] * times

    def action() -> str:
        if left:
            raise left.pop()
        return "done"

    return action


def first(count: int, fault: Fault) -> Plan:
    """The fault for the first so many requests from here on."""
    left = [fault] * count
    return lambda request: left.pop() if left else None


@pytest.mark.parametrize("error", [StoreError("no"), AccessDeniedError("no"), ObjectMissingError("no"), ObjectExistsError("no")])
def test_an_answer_is_not_tried_again(error: StoreError) -> None:
    clock = Clock()
    with pytest.raises(type(error)):
        retrying(clock.policy(), failing(1, error))
    assert clock.waits == []


def test_when_the_time_is_up_the_last_error_is_told_with_the_time() -> None:
    clock = Clock()
    with pytest.raises(RetriesExhaustedError, match=r"the server is busy \(tried for 20 s\)") as caught:
        retrying(clock.policy(time_limit=20.0), failing(1_000, TransientStoreError("the server is busy", hint="wait")))
    assert caught.value.hint == "wait"
    assert not isinstance(caught.value, TransientStoreError), "who catches it may not try again once more"
    assert clock.waits == [1.0, 2.0, 4.0, 8.0]
    assert clock.now < 1020


def test_a_burst_of_refusals_is_waited_out(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    url = store_server.new_url()
    with FaultProxy(store_server) as proxy:
        use(store_server, monkeypatch, proxy.endpoint)
        store = open_store(url, clock.policy())
        for kind in ("busy", "throttled"):
            proxy.plan = first(3, Refuse(kind))
            store.put("a", b"x")
            proxy.plan = first(3, Refuse(kind))
            assert store.get("a") == b"x"
            proxy.plan = first(3, Refuse(kind))
            assert [info.key for info in store.list()] == ["a"]
            proxy.plan = first(3, Refuse(kind))
            assert store.stat("a").size == 1
    assert clock.waits == [1.0, 2.0, 4.0] * 8


def test_a_store_that_stays_busy_is_given_up_in_time(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    with FaultProxy(store_server, lambda request: Refuse("busy")) as proxy:
        use(store_server, monkeypatch, proxy.endpoint)
        store = open_store(store_server.new_url(), clock.policy(time_limit=20.0))
        with pytest.raises(StoreError, match="tried for 20 s"):
            store.put("a", b"x")
        assert len(proxy.records) == 1 + len(clock.waits) == 5


@pytest.mark.parametrize("after", [-1, 0, 10, 10**9])
def test_an_answer_that_breaks_off_is_asked_for_again(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    data = random.Random(1).randbytes(200_000)
    url = store_server.new_url()
    with FaultProxy(store_server) as proxy:
        use(store_server, monkeypatch, proxy.endpoint)
        store = open_store(url, Clock().policy())
        store.put("a", data)
        for ask in (lambda: store.get("a"), lambda: store.get("a", 1_000, 200_000)[-1:], lambda: [info.key for info in store.list()]):
            proxy.plan = first(1, Cut("response", after))
            assert ask() in (data, data[-1:], ["a"])
        assert len(proxy.faults()) == 3


def test_an_upload_whose_connection_is_cut_is_sent_again(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(2).randbytes(300_000)
    url = store_server.new_url()
    with FaultProxy(store_server) as proxy:
        use(store_server, monkeypatch, proxy.endpoint)
        store = open_store(url, Clock().policy())
        for fault in (Cut("request", 0), Cut("request", 123_456), Cut("request", 299_999), Cut("response", -1)):
            proxy.plan = first(1, fault)
            store.put("a", data)
            assert store.get("a") == data
        assert len(proxy.faults()) == 4
        assert proxy.sent("PUT") == 8


def test_a_creation_whose_answer_was_lost_is_known_as_ones_own(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = store_server.new_url()
    with FaultProxy(store_server) as proxy:
        use(store_server, monkeypatch, proxy.endpoint)
        store = open_store(url, Clock().policy())
        proxy.plan = first(1, Cut("response", -1))
        store.create("mine", b"these very bytes")
        assert proxy.faults() == [Cut("response", -1)]

        store.put("taken", b"by another")
        proxy.plan = first(1, Cut("response", -1))
        with pytest.raises(ObjectExistsError):
            store.create("taken", b"mine")
        assert store.get("taken") == b"by another"

        seen = store.put("replaced", b"seen")
        proxy.plan = first(1, Cut("response", -1))
        replaced = store.replace(seen, b"these very bytes")
        assert store.replace(replaced, b"the next ones").version != replaced.version


class Breaking(LocalStore):
    """A store whose lists break off after three objects."""

    breaks = 4

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        for number, info in enumerate(super().list(prefix, after)):
            if number == 3 and self.breaks:
                self.breaks -= 1
                raise TransientStoreError("the connection broke")
            yield info


def test_a_list_goes_on_behind_the_last_object_that_came(tmp_path: Path) -> None:
    inner, clock = Breaking(tmp_path), Clock()
    names = [f"many/{number:02}" for number in range(20)]
    for name in names:
        inner.put(name, b"x")
    assert [info.key for info in RetryingStore(inner, clock.policy()).list("many/", names[1])] == names[2:]
    assert clock.waits == [1.0] * 4  # each break is waited for anew: there was progress between them


@pytest.mark.parametrize("seed", range(5))
def test_in_any_weather_what_is_read_is_what_was_written(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    url = store_server.new_url()
    with FaultProxy(store_server, Weather(seed, cut=0.25, busy=0.1, drip=0.05)) as proxy:
        use(store_server, monkeypatch, proxy.endpoint)
        store = open_store(url, Clock().policy())
        written = {f"folder/{number}": random.Random(number).randbytes(number * 997) for number in range(12)}
        for key, data in written.items():
            store.put(key, data)
        assert {key: store.get(key) for key in written} == written
        assert [info.key for info in store.list("folder/")] == sorted(written)
        assert proxy.faults()
