"""Ten seeds of chaos; ``make chaos SEED=…`` plays as many as there is time for."""

import hashlib
from pathlib import Path

import pytest

from tests.chaos.containers import containers
from tests.chaos.invariants import Claim, History, Published, damaged, violations
from tests.chaos.play import play
from tests.chaos.scenario import draw, draw_in_containers, draw_more
from tests.stores import StoreServer, server_or_skip


@pytest.fixture
def s3() -> StoreServer:
    return server_or_skip("s3")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 5, 6, 10])
def test_a_run_in_a_folder_survives(seed: int, tmp_path: Path) -> None:
    play(draw(seed, "folder", motifs=1), tmp_path, None, namespaces=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [6, 7, 11, 12, 14])
def test_a_run_in_a_bucket_survives(seed: int, tmp_path: Path, s3: StoreServer) -> None:
    play(draw(seed, "s3", motifs=1), tmp_path, s3, namespaces=False)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "seed"), [("gs", 2), ("az", 2)])
def test_a_run_in_another_bucket_survives(scheme: str, seed: int, tmp_path: Path) -> None:
    play(draw(seed, "gs" if scheme == "gs" else "az", motifs=1), tmp_path, server_or_skip(scheme), namespaces=False)


@pytest.mark.slow
def test_a_run_in_a_container_survives(tmp_path: Path) -> None:
    with containers() as of_run:
        play(draw_in_containers(2, motifs=1), tmp_path, None, of_run, namespaces=False)


def test_a_seed_draws_the_same_actions_every_time() -> None:
    assert draw(5) == draw(5)
    assert len({draw(seed).actions for seed in range(20)}) == 20
    assert draw_more(5) == draw_more(5)
    assert {scenario.store for scenario in map(draw_more, range(20))} == {"folder", "s3", "gs", "az"}
    assert {scenario.in_containers for scenario in map(draw_more, range(20))} == {False, True}


def test_a_seed_draws_what_it_has_always_drawn() -> None:
    said = "\n".join(str(action) for seed in range(20) for action in draw(seed).actions)
    assert hashlib.sha256(said.encode()).hexdigest() == "262b638069229a4f605dc555aaca3698e1eb4f06302d643c60b0f6c5551557d6"


def _seen(*published: Published) -> History:
    first, second = Claim(0.0, {"x"}, 0), Claim(10.0, {"y"}, 1, 2)
    return History({1: first, 2: second}, list(published))


GOOD = (Published(1, 1, "1:1", 1, 1), Published(1, 2, "1:1 1:2", 2, 2), Published(2, 3, "1:1 1:2 2:3", 12, 12))


def test_a_resumed_run_breaks_no_rule() -> None:
    assert list(violations(_seen(*GOOD), ["begin 1 0 10 a", "save 1 1 10 a", "begin 2 2 11 b"], is_atomic=True)) == []


@pytest.mark.parametrize(
    ("late", "is_atomic", "rule"),
    [
        (Published(1, 3, "1:1 1:2 1:3", 11, 11), True, "after attempt 2 had been claimed"),
        (Published(1, None, "1:1 1:2 1:3", 13, 13), False, "after attempt 2 had published"),
        (Published(2, 3, "1:1 1:2 1:3", 13, 13), False, "holds what another attempt made"),
        (Published(2, 2, "1:1 2:2", 13, 13), False, "continues 1 of 1, and says 2 of 1"),
        (Published(2, 4, "1:1 1:2 2:4", 13, 13), False, "has a gap"),
        (Published(3, 3, "1:1 1:2 3:3", 13, 13), False, "which nobody claimed"),
    ],
)
def test_what_a_second_writer_publishes_breaks_a_rule(late: Published, is_atomic: bool, rule: str) -> None:
    found = list(violations(_seen(*GOOD, late), [], is_atomic=is_atomic))
    assert len(found) == 1
    assert rule in found[0]


def test_what_arrives_late_in_the_folder_of_an_overtaken_attempt_breaks_no_rule_of_a_bucket() -> None:
    assert list(violations(_seen(*GOOD, Published(1, 3, "1:1 1:2 1:3", 13, 13)), [], is_atomic=False)) == []
    moved = Published(1, 2, "1:1 1:2", 13, 13, folder=2)
    assert list(violations(_seen(*GOOD[:1], moved), [], is_atomic=True)) == []


def test_an_attempt_that_begins_twice_breaks_a_rule() -> None:
    found = list(violations(_seen(*GOOD), ["begin 2 2 11 a", "begin 2 2 12 b"], is_atomic=True))
    assert found == ["attempt 2 ran 2 programs: process 11 of a, process 12 of b"]


def test_attempts_with_a_gap_or_two_launches_break_a_rule() -> None:
    seen = History({1: Claim(0.0, {"x", "y"}, 0), 3: Claim(1.0, {"z"}, 0)})
    assert list(violations(seen, [], is_atomic=True)) == [
        "the attempts are numbered [1, 3]",
        "attempt 1 belonged to several launches: ['x', 'y']",
    ]


def test_a_complete_checkpoint_with_other_bytes_is_damaged() -> None:
    manifest = b'{"files": {"chain": {"sha256": "00"}, "more": {"sha256": "00"}}}'
    now = {"r/checkpoints/step-00000001/manifest.json": manifest, "r/checkpoints/step-00000001/chain": b"1:1"}
    assert [what.rpartition(" ")[0] for what in damaged(now, "r")] == [
        "checkpoints/step-00000001 is complete, and its chain is another",
        "checkpoints/step-00000001 is complete, and its more is",
    ]


def test_a_manifest_alone_is_damaged_unless_there_is_a_newer_checkpoint() -> None:
    chain = hashlib.sha256(b"2:2").hexdigest().encode()
    alone = {"r/checkpoints/step-00000001/manifest.json": b'{"files": {"chain": {"sha256": "00"}}}'}
    newer = {"r/checkpoints-2/step-00000002/manifest.json": b'{"files": {"chain": {"sha256": "%b"}}}' % chain}
    assert len(list(damaged(alone, "r"))) == 1
    assert list(damaged({**alone, **newer, "r/checkpoints-2/step-00000002/chain": b"2:2"}, "r")) == []
