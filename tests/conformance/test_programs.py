"""What a program finds at each place, and what arrives of it: output, metrics, checkpoints, a model, the reason of a failure."""

import json

import pytest

from cloud_train.errors import ProviderError
from cloud_train.orchestrator.connections import provider_at
from cloud_train.orchestrator.following import follow
from cloud_train.orchestrator.ledgers import read_ledger
from cloud_train.orchestrator.reading import follow_logs, read_logs, read_metrics
from cloud_train.orchestrator.reconcile import update_run, update_runs
from cloud_train.orchestrator.results import fetch_model
from cloud_train.orchestrator.stopping import cancel
from cloud_train.orchestrator.syncing import sync
from cloud_train.providers.base import Handle
from cloud_train.run import layout
from cloud_train.run.manifest import parse_manifest, verify
from cloud_train.run.states import Cause, State
from cloud_train.run.view import RunView
from tests.conformance.bench import READY, Bench, saving

VARIABLES = [
    *("RUN_ID", "ATTEMPT", "JOB", "CHECKPOINTS", "RESUME", "MODEL", "METRICS", "DATA", "FAILURE"),
    *("GRACE_SECONDS", "NODE_RANK", "NODES", "KEEP_CHECKPOINTS", "BEST"),
]
"""Less their common beginning; docs/script-jobs.md explains them."""


def test_a_program_runs_to_its_end_and_its_model_arrives_verified(bench: Bench) -> None:
    run = bench.start('echo done; printf "\\001\\002" > "$CLOUD_TRAIN_MODEL/weights"')
    end = bench.end_of(run)
    assert (end.state, end.cause, end.attempt) == (State.SUCCEEDED, Cause.SUCCEEDED, 1)
    fetched = fetch_model(bench.home, run.run_id, bench.folder / "model")
    assert (fetched.folder / "weights").read_bytes() == b"\x01\x02"
    assert list(verify(fetched.folder).files) == ["weights"]


def test_output_arrives_byte_for_byte(bench: Bench) -> None:
    run = bench.run(r"printf 'gr\303\274n\r50%%\377\000\n'; echo err >&2; printf 'no line feed'")
    assert bench.output(run) == "grün\r50%".encode() + b"\xff\x00\nerr\nno line feed"


def test_a_megabyte_of_output_arrives_whole(bench: Bench) -> None:
    run = bench.run("head -c 1000000 /dev/zero | tr '\\0' x")
    assert bench.output(run) == b"x" * 1_000_000


def test_output_is_followed_to_its_last_byte_while_the_program_runs(bench: Bench) -> None:
    run = bench.start("for n in 1 2 3 4 5; do echo line $n; sleep 0.05; done")
    assert b"".join(follow_logs(bench.home, run.run_id)) == b"".join(b"line %d\n" % n for n in range(1, 6))


def test_where_a_container_runs_its_own_log_has_the_programs_output_too(bench: Bench) -> None:
    provider = provider_at(bench.home, bench.place.name)
    if not provider.capabilities.containers:
        pytest.skip("it runs no containers")
    run = bench.start_until_ready(f"echo an epoch has passed; {READY}; sleep 600")
    with read_ledger(bench.home) as ledger:
        entry = ledger.get(run.run_id)
    assert entry is not None
    assert entry.reference is not None
    handle = Handle(run.run_id, 1, run.provider, run.store, entry.reference)
    bench.wait_until(lambda: b"an epoch has passed" in provider.logs(handle, None)[0], "the container has logged it")
    assert cancel(bench.home, run.run_id).state is State.CANCELLED
    assert bench.output(run).count(b"an epoch has passed") == 1


def test_the_tail_of_the_output_is_its_last_lines(bench: Bench) -> None:
    run = bench.run("seq 1000")
    assert b"".join(read_logs(bench.home, run.run_id, tail=2)) == b"999\n1000\n"


def test_metrics_arrive(bench: Bench) -> None:
    lines = [
        {"step": 4, "epoch": 0.5, "time": 1.0, "split": "train", "name": "loss", "value": 0.25},
        {"step": 8, "name": "loss", "value": None},
    ]
    commands = "\n".join(f"echo '{json.dumps(line)}' >> \"$CLOUD_TRAIN_METRICS\"" for line in lines)
    run = bench.start(commands)
    last = list(follow(bench.home, run.run_id))[-1]
    assert (last.step, last.epoch, last.latest) == (8, 0.5, {"train/loss": None})
    assert [(point.step, point.value) for point in read_metrics(bench.home, run.run_id)] == [(4, 0.25), (8, None)]


def test_a_program_that_fails_is_failed_with_its_status_and_its_last_words(bench: Bench) -> None:
    end = bench.run("echo it is broken; exit 3")
    assert (end.state, end.cause, end.message) == (State.FAILED, Cause.FAILED, "exit status 3: it is broken")


def test_a_program_that_is_killed_by_a_signal_is_failed_and_the_signal_named(bench: Bench) -> None:
    end = bench.run("kill -SEGV $$")
    assert (end.cause, end.message) == (Cause.FAILED, "killed by SIGSEGV")


@pytest.mark.parametrize(
    ("said", "cause"),
    [("the data is empty", Cause.FAILED), ('{"message": "the data is empty", "cause": "infrastructure"}', Cause.INFRASTRUCTURE)],
    ids=["text", "json"],
)
def test_what_a_program_says_of_its_failure_arrives(bench: Bench, said: str, cause: Cause) -> None:
    end = bench.run(f"echo '{said}' > \"$CLOUD_TRAIN_FAILURE\"; echo other words; exit 1")
    assert (end.cause, end.message) == (cause, "the data is empty")


def test_without_the_gpus_that_the_job_asks_for_no_program_starts_and_none_is_retried(bench: Bench) -> None:
    patient = {"attempts": 3, "on": ["failed", "preempted", "infrastructure"]}
    hidden = {"CUDA_VISIBLE_DEVICES": ""}  # on a machine that has some
    try:
        end: RunView | ProviderError = bench.run("echo started", resources={"accelerator": "T4:1"}, env=hidden, retry=patient)
    except ProviderError as refused:
        end = refused
    if isinstance(end, ProviderError):  # an engine without a driver for GPUs does not even start the container
        assert "GPU" in end.message
        return
    assert (end.state, end.cause, end.attempt) == (State.FAILED, Cause.NO_ACCELERATOR, 1)
    assert end.message.startswith("the job asks for 1 × T4 on each machine (resources.accelerator), but its program cannot use any: ")
    assert not [info.key for info in bench.store.list(f"{end.run_id}/attempts/1/logs/") if "output.log" in info.key]


def test_a_command_that_is_not_there_is_named(bench: Bench) -> None:
    end = bench.run(["no-such-command-4711", "--help"])
    assert (end.state, end.cause) == (State.FAILED, Cause.FAILED)
    assert "'no-such-command-4711' was not found" in end.message


def test_a_program_starts_in_the_folder_of_its_code(bench: Bench) -> None:
    assert bench.words(bench.run("cat greeting.txt")) == ["hello from the job's folder"]


def test_the_jobs_environment_reaches_the_program(bench: Bench) -> None:
    value = "two words, 'quotes', $none and ü"
    run = bench.run('printf %s "$GREETING"', env={"GREETING": value})
    assert bench.output(run).decode() == value


def test_a_secret_reaches_the_program_and_is_written_nowhere(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "sesame-open-4711")
    run = bench.run('test "$MY_TOKEN" = "sesame-$(echo open)-4711" && echo right', secrets=["MY_TOKEN"])
    assert bench.words(run) == ["right"]
    here = [path for path in bench.home.folder.rglob("*") if path.is_file() and b"sesame-open-4711" in path.read_bytes()]
    there = [info.key for info in bench.store.list(f"{run.run_id}/") if b"sesame-open-4711" in bench.store.get(info.key)]
    assert (here, there) == ([], [])


def test_the_contracts_variables_are_set_and_their_folders_exist(bench: Bench) -> None:
    names = " ".join(f"CLOUD_TRAIN_{name}" for name in VARIABLES)
    run = bench.run(
        f'set -e; for name in {names}; do eval "test -n \\"\\${{$name+set}}\\"" || exit 9; done\n'
        'test -d "$CLOUD_TRAIN_CHECKPOINTS"; test -d "$CLOUD_TRAIN_MODEL"; test -f "$CLOUD_TRAIN_JOB"; test -z "$CLOUD_TRAIN_RESUME"\n'
        'touch "$CLOUD_TRAIN_FAILURE" "$CLOUD_TRAIN_METRICS" "$CLOUD_TRAIN_CHECKPOINTS/.probe"; rm "$CLOUD_TRAIN_CHECKPOINTS/.probe"\n'
        'echo "$CLOUD_TRAIN_RUN_ID $CLOUD_TRAIN_ATTEMPT $CLOUD_TRAIN_NODE_RANK/$CLOUD_TRAIN_NODES"\n'
        'echo "$CLOUD_TRAIN_GRACE_SECONDS $CLOUD_TRAIN_KEEP_CHECKPOINTS"',
        limits={"grace": "7 s"},
        checkpoint={"keep": 2},
    )
    assert run.state is State.SUCCEEDED, run.message
    assert bench.words(run) == [f"{run.run_id} 1 0/1", "7 2"]


def test_the_jobs_data_can_be_read(bench: Bench) -> None:
    path = bench.data({"below/numbers.txt": b"1 2 3\n"})
    run = bench.run('cat "$CLOUD_TRAIN_DATA/below/numbers.txt"', data={"dataset": "files", "path": path})
    assert bench.words(run) == ["1 2 3"]


def test_a_programs_temporary_files_have_a_place(bench: Bench) -> None:
    assert bench.run('file=$(mktemp) && echo kept > "$file" && grep -q kept "$file" && rm "$file"').state is State.SUCCEEDED


def test_a_scripts_checkpoint_gets_its_manifest_and_arrives_verified(bench: Bench) -> None:
    run = bench.run(saving(3))
    manifest = parse_manifest(bench.store.get(bench.checkpoint(run, 3, layout.MANIFEST)), "manifest")
    assert (manifest.step, list(manifest.files)) == (3, ["weights"])
    fetched = fetch_model(bench.home, run.run_id, bench.folder / "model", checkpoint="last")
    assert (fetched.step, (fetched.folder / "weights").read_text()) == (3, "3\n")


def test_only_as_many_checkpoints_are_kept_as_the_job_says(bench: Bench) -> None:
    run = bench.run("\n".join(saving(step) for step in range(1, 6)), checkpoint={"keep": 2})
    kept = list(bench.store.folders(f"{run.run_id}/{layout.CHECKPOINTS}/"))
    assert kept == [layout.step_folder(4), layout.step_folder(5)]


def test_the_run_directory_can_be_copied_here(bench: Bench) -> None:
    run = bench.run(f'echo hello; {saving(1)}; echo w > "$CLOUD_TRAIN_MODEL/weights"')
    copied = sync(bench.home, run.run_id, bench.folder / "copy").copied
    assert {layout.RUN, layout.status(1), layout.output_log(1), f"{layout.MODEL}/weights"} <= set(copied)
    assert (bench.folder / "copy" / layout.output_log(1)).read_bytes() == b"hello\n"


def test_the_status_shows_where_and_when(bench: Bench) -> None:
    run = bench.start_until_ready(f"{READY}; sleep 600")
    bench.wait_until(lambda: update_run(bench.home, run.run_id).state is State.RUNNING, "it is running")
    now = update_run(bench.home, run.run_id)
    assert (now.cause, now.ended) == (None, None)
    assert now.host
    assert now.heartbeat
    assert now.started
    assert now.created - 1 <= now.started <= now.heartbeat, "one second for clocks that differ"
    end = cancel(bench.home, run.run_id)
    assert end.ended
    assert end.ended >= now.started
    assert end.host == now.host


def test_two_runs_at_the_same_time_do_not_mix_and_both_are_listed(bench: Bench) -> None:
    runs = [bench.start(f"echo {word}; {saving(step)}; echo {word}") for step, word in ((1, "one"), (2, "two"))]
    ends = [bench.end_of(run) for run in runs]
    assert [end.state for end in ends] == [State.SUCCEEDED, State.SUCCEEDED]
    assert [bench.words(run) for run in runs] == [["one", "one"], ["two", "two"]]
    assert [list(bench.store.folders(f"{run.run_id}/{layout.CHECKPOINTS}/")) for run in runs] == [
        [layout.step_folder(1)],
        [layout.step_folder(2)],
    ]
    assert [run.run_id for run in update_runs(bench.home)] == [run.run_id for run in sorted(runs, key=lambda run: -run.created)]


def test_nothing_is_left_at_the_provider_once_the_end_was_seen(bench: Bench) -> None:
    run = bench.start_until_ready(f"sleep 600 & {READY}; wait")
    assert bench.place.leftovers(bench.home.folder, run.run_id)
    assert cancel(bench.home, run.run_id).state is State.CANCELLED
    bench.wait_until(lambda: not bench.place.leftovers(bench.home.folder, run.run_id), "nothing of it is left, and nobody looked again")
