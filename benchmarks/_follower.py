"""Follow a run like ``logs --follow`` or ``submit --follow``, on a clock that the parent process advances.

``python -m benchmarks._follower VERB RUN HOME PAUSE``, where PAUSE is the number of seconds between two reads of the store. Instead of
waiting, it prints the number of seconds, and continues with the next line of its standard input. The last line says how many bytes it
received.
"""

import sys
from pathlib import Path


def main() -> None:
    """Follow until the run ends."""
    from cloud_train.orchestrator import connections
    from cloud_train.orchestrator.following import follow
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.reading import follow_logs

    verb, run_id, home = sys.argv[1], sys.argv[2], Home(Path(sys.argv[3]))
    connections.CLOUD_PAUSE_SECONDS = float(sys.argv[4])
    now, told = 0.0, 0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        print(seconds, flush=True)
        if not sys.stdin.readline():
            sys.exit("the parent no longer advances the clock")

    def note(line: str) -> None:
        nonlocal told
        told += len(line)

    if verb == "logs":
        for piece in follow_logs(home, run_id, sleep=sleep, note=note, clock=lambda: now):
            told += len(piece)
    else:
        for progress in follow(home, run_id, sleep=sleep, note=note, clock=lambda: now):
            told += len(progress.output)
    print("told", told, flush=True)


if __name__ == "__main__":
    main()
