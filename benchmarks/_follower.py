"""Follows a run as ``logs --follow`` or ``submit --follow`` does, in a time that its parent moves.

``python -m benchmarks._follower VERB RUN HOME PAUSE``, the pause in seconds between two looks at the store. Whenever it would wait it
prints for how many seconds, and goes on with the next line of its standard input. The last line says how many bytes it was told.
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
            sys.exit("nobody moves the time any more")

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
