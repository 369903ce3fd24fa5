"""Trying a store."""

from dataclasses import dataclass

import pytest

from cloud_train.errors import StoreError
from cloud_train.storage.base import AccessDeniedError, ObjectInfo
from cloud_train.storage.probing import probe
from cloud_train.storage.registry import open_store
from tests.storage.memory_store import MemoryStore
from tests.stores import StoreServer

NAMES = ["list", "write", "read", "upload", "delete"]


@dataclass
class Refusing:
    """Refuses some of a store's methods, as a policy does: each refusal names the permission that is missing."""

    methods: tuple[str, ...]
    hint: str = ""

    def __call__(self, name: str, key: str) -> None:
        if name in self.methods:
            raise AccessDeniedError(f"no permission to {name}", hint=self.hint or f"allow: {name}")


def test_a_store_that_can_be_used_passes_every_step_and_keeps_nothing(store_server: StoreServer) -> None:
    store = open_store(f"{store_server.new_url()}/some/prefix")
    steps = probe(store)
    assert [(step.name, step.error) for step in steps] == [(name, None) for name in NAMES]
    assert list(store.list()) == []


@pytest.mark.parametrize(
    ("refused", "failed"),
    [
        (("list",), ["list"]),
        (("get", "stat"), ["read"]),
        (("create", "put"), ["write"]),
        (("begin",), ["upload"]),
        (("delete",), ["delete"]),
        (("list", "create", "get", "delete"), ["list", "write", "read", "delete"]),
    ],
)
def test_each_missing_permission_is_found_and_named(refused: tuple[str, ...], failed: list[str]) -> None:
    steps = probe(MemoryStore(before=Refusing(refused)))
    assert [step.name for step in steps if step.error] == failed
    assert all(step.error.hint in {f"allow: {name}" for name in refused} for step in steps if step.error)


def test_a_store_that_refuses_to_say_that_an_object_is_missing_is_found_out() -> None:
    def refuse(name: str, key: str) -> None:
        if name == "get" and key.endswith("-missing"):  # as S3 does to whoever may not list
            raise AccessDeniedError("no permission", hint="allow: list")

    assert [step.name for step in probe(MemoryStore(before=refuse)) if step.error] == ["read"]


def test_a_store_that_may_be_read_only_is_left_as_it_was() -> None:
    store = MemoryStore(before=Refusing(("create", "put", "begin", "delete")))
    store.place("there", b"x")
    assert [step.name for step in probe(store) if step.error is None] == ["list", "read"]
    assert list(store.objects) == ["there"]


def test_a_store_that_is_not_there_is_tried_once() -> None:
    def gone(name: str, key: str) -> None:
        raise StoreError("there is no bucket", hint="make it")

    (step,) = probe(MemoryStore(before=gone))
    assert (step.name, step.detail) == ("list", "there is no bucket")


def test_what_is_wrong_with_everything_is_not_said_for_each_step() -> None:
    steps = probe(MemoryStore(before=Refusing(("list", "create", "get", "delete"), hint="log in")))
    assert [step.name for step in steps] == ["list", "write"]


def test_a_server_that_does_not_know_conditional_writes_is_found_out() -> None:
    class Careless(MemoryStore):
        def create(self, key: str, data: bytes) -> ObjectInfo:
            return self.put(key, data)

    store = Careless()
    write = next(step for step in probe(store) if step.name == "write")
    assert "created twice" in write.detail
    assert store.objects == {}


def test_bytes_that_come_back_as_others_are_found_out() -> None:
    class Damaging(MemoryStore):
        def get(self, key: str, start: int = 0, end: int | None = None, *, version: str | None = None) -> bytes:
            return b"\0" + super().get(key, start, end, version=version)[1:]

    read = next(step for step in probe(Damaging()) if step.name == "read")
    assert "different bytes" in read.detail
