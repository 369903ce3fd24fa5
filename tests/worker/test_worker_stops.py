import os
import signal
import sys
from dataclasses import replace

import psutil
import pytest

from cloud_train.run.states import Cause, State
from cloud_train.worker import contract
from tests.support import wait_until
from tests.worker.launching import QUICK, Launched, living

SAVES_ON_SIGTERM = """
import signal, sys, time
def save(*_):
    print("saving", flush=True)
    time.sleep({seconds})
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    time.sleep(60)
"""

IGNORES_SIGTERM = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("grandchild ready", flush=True)
    else:
        os._exit(0)
else:
    os.wait()
while True:
    time.sleep(60)
"""


def test_a_worker_that_is_told_to_stop_lets_the_program_save_and_the_attempt_is_preempted(launched: Launched) -> None:
    launched.python(SAVES_ON_SIGTERM.format(seconds=0.1))
    worker = launched.start()
    launched.says(b"ready")
    worker.terminate()
    worker.wait(30)
    status = launched.status()
    assert (status.state, status.cause, status.program_exit_code) == (State.INTERRUPTED, Cause.PREEMPTED, contract.STOPPED)
    assert status.message == "told to stop"
    assert launched.output().endswith(b"saved\n")
    assert worker.returncode == Cause.PREEMPTED.exit_code


def test_the_status_says_stopping_while_the_program_saves(launched: Launched) -> None:
    launched.python(SAVES_ON_SIGTERM.format(seconds=60))
    worker = launched.start()
    launched.says(b"ready")
    wait_until(lambda: launched.is_in(State.RUNNING), "the status says running")
    worker.terminate()
    wait_until(lambda: launched.is_in(State.STOPPING), "the status says stopping")


def test_a_stop_with_the_mark_of_a_cancellation_is_cancelled_and_not_failed(launched: Launched) -> None:
    launched.python(SAVES_ON_SIGTERM.format(seconds=0))
    worker = launched.start(timing=replace(QUICK, heartbeat=600))
    launched.says(b"ready")
    launched.cancel()
    worker.terminate()
    worker.wait(30)
    assert launched.ended_with(Cause.CANCELLED)
    assert launched.status().state is State.CANCELLED


def test_the_mark_alone_is_noticed_at_the_next_heartbeat(launched: Launched) -> None:
    launched.python(SAVES_ON_SIGTERM.format(seconds=0))
    worker = launched.start()
    launched.says(b"ready")
    launched.cancel()
    assert worker.wait(30) == Cause.CANCELLED.exit_code
    assert launched.ended_with(Cause.CANCELLED)


def test_a_program_that_is_signalled_before_its_worker_sees_the_mark_is_cancelled_too(launched: Launched) -> None:
    launched.shell("echo $$ ready; exec sleep 60")
    worker = launched.start(timing=replace(QUICK, heartbeat=600))
    launched.says(b"ready")
    launched.cancel()
    os.kill(int(launched.output().split()[0]), signal.SIGTERM)
    worker.wait(30)
    assert launched.ended_with(Cause.CANCELLED)


def test_a_program_that_has_succeeded_stays_succeeded_whatever_was_marked(launched: Launched) -> None:
    launched.shell('touch "$(dirname "$CLOUD_TRAIN_FAILURE")/cancel"')
    launched.run(timing=replace(QUICK, heartbeat=600))
    assert launched.ended_with(Cause.SUCCEEDED)


def test_an_attempt_that_reaches_its_time_limit_is_stopped_as_timed_out(launched: Launched) -> None:
    launched.shell("trap 'echo saved; exit 143' TERM; while :; do sleep 0.02; done", duration_seconds=0.5)
    status = launched.run()
    assert (status.state, status.cause, status.message) == (State.FAILED, Cause.TIMED_OUT, "reached its time limit of 0.5 s")
    assert b"saved" in launched.output()


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace_period_with_all_that_left_its_group(launched: Launched) -> None:
    launched.python(IGNORES_SIGTERM, grace_seconds=0.3)
    worker = launched.start()
    launched.says(b"grandchild ready")
    assert len(living(launched.work)) == 2
    worker.terminate()
    worker.wait(30)
    assert living(launched.work) == []
    status = launched.status()
    assert (status.cause, status.program_exit_code) == (Cause.PREEMPTED, -signal.SIGKILL)
    assert status.message == "told to stop; killed after the grace period of 0.3 s"


def test_a_child_that_still_saves_when_its_shell_has_died_has_the_rest_of_the_grace_period(launched: Launched) -> None:
    (launched.work / "save.py").write_text(SAVES_ON_SIGTERM.format(seconds=1))
    launched.shell(f"'{sys.executable}' save.py; echo never reached")
    worker = launched.start(timing=replace(QUICK, leftover=0.05))
    launched.says(b"ready")
    worker.terminate()
    worker.wait(30)
    assert launched.output() == b"ready\nsaving\nsaved\n"
    assert launched.ended_with(Cause.PREEMPTED)


def test_what_a_program_leaves_behind_is_ended_with_it(launched: Launched) -> None:
    launched.python("import subprocess\nsubprocess.Popen(['sleep', '600'])\nsubprocess.Popen(['sleep', '600'], start_new_session=True)")
    assert launched.run().cause is Cause.SUCCEEDED
    assert living(launched.work) == []
    assert "left processes behind" in launched.worker_log()


def test_a_second_sigterm_changes_nothing(launched: Launched) -> None:
    launched.python(SAVES_ON_SIGTERM.format(seconds=0.3))
    worker = launched.start()
    launched.says(b"ready")
    worker.terminate()
    launched.says(b"saving")
    worker.terminate()
    worker.wait(30)
    assert b"saved" in launched.output()
    assert launched.ended_with(Cause.PREEMPTED)


def test_a_terminal_that_goes_away_does_not_stop_the_run(launched: Launched) -> None:
    launched.shell("echo ready; read line < go; echo done")
    os.mkfifo(launched.work / "go")
    worker = launched.start()
    launched.says(b"ready")
    worker.send_signal(signal.SIGHUP)
    (launched.work / "go").write_text("go\n")
    assert worker.wait(30) == 0
    assert launched.output() == b"ready\ndone\n"


def test_the_program_does_not_inherit_ignored_signals(launched: Launched) -> None:
    launched.shell("grep SigIgn /proc/$$/status")
    launched.run()
    ignored = int(launched.output().split()[1], 16)
    # Those that the worker listens to or that Python ignores by itself; what the context of the tests ignore is theirs.
    listened = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
    assert [number.name for number in listened if ignored >> (number - 1) & 1] == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, what has left the process group cannot be found")
def test_a_worker_that_is_killed_takes_the_whole_program_with_it(launched: Launched) -> None:
    launched.python(IGNORES_SIGTERM)
    worker = launched.start()
    launched.says(b"grandchild ready")
    wait_until(lambda: launched.is_in(State.RUNNING), "the status says running")
    worker.kill()
    worker.wait(30)
    wait_until(lambda: living(launched.work) == [], "nothing of the program runs on")
    assert launched.is_in(State.RUNNING)  # the provider finds out that the worker has died


def test_a_guard_that_is_killed_is_replaced_so_that_the_program_still_ends_with_its_worker(launched: Launched) -> None:
    launched.shell("echo ready; exec sleep 100")
    worker = psutil.Process(launched.start().pid)
    launched.says(b"ready")
    wait_until(lambda: "sleep" in [child.name() for child in worker.children()], "the shell has become the program")
    program, guard = sorted(worker.children(), key=lambda child: child.name() != "sleep")
    guard.kill()
    wait_until(lambda: any(child not in (program, guard) for child in worker.children()), "there is another guard")
    heartbeat = launched.status().heartbeat
    wait_until(lambda: launched.status().heartbeat > heartbeat, "it knows the program")
    worker.kill()
    wait_until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE, "the program has ended")


def test_the_guard_is_gone_when_the_worker_is(launched: Launched) -> None:
    launched.job("true")
    worker = launched.start()
    worker.wait(30)
    assert [process.pid for process in psutil.process_iter() if process.ppid() == worker.pid] == []
    assert worker.stderr is not None
    assert worker.stderr.read() == b""  # the pipe has ended: nobody has it open any more
