"""Play seeds: ``python -m tests.chaos SEED [COUNT] [--store folder|s3]``; see ``scenario`` and ``play``.

A seed always draws the same actions; the timing of the real processes differs from one play to the next. A seed that breaks a rule is
printed with everything that was done and seen, its files are kept, and the exit status is 1.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

from tests.chaos.machines import may_make_namespaces
from tests.chaos.play import play
from tests.chaos.scenario import draw
from tests.stores import StoreServer, missing, running


def main() -> int:
    """Play the seeds that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("seed", type=int, help="the first seed")
    parser.add_argument("count", type=int, nargs="?", default=1, help="how many seeds, 1 by default")
    parser.add_argument("--store", choices=["folder", "s3"], help="where the run is kept; by default, the seed chooses")
    parser.add_argument("--motifs", type=int, default=3, help="at most so many misfortunes a seed")
    parser.add_argument("--verbose", action="store_true", help="say what is done meanwhile")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    namespaces = may_make_namespaces()
    print(f"machines on S3 have {'network namespaces of their own' if namespaces else 'no network namespaces (only root may make them)'}")
    broken: list[int] = []
    with ExitStack() as until_the_end:
        server: StoreServer | None = None
        for seed in range(options.seed, options.seed + options.count):
            scenario = draw(seed, options.store, options.motifs)
            if scenario.store == "s3" and server is None:
                if reason := missing("s3"):
                    print(f"seed {seed}: not played, since {reason}")
                    continue
                server = until_the_end.enter_context(running("s3"))
            broken += [] if _played(seed, scenario.store, server, namespaces, options) else [seed]
    print(f"{options.count} seeds, {len(broken)} broke a rule{': ' if broken else ''}{', '.join(map(str, broken))}")
    return 1 if broken else 0


def _played(seed: int, store: str, server: StoreServer | None, namespaces: bool, options: argparse.Namespace) -> bool:
    scenario, began = draw(seed, options.store, options.motifs), monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    try:
        play(
            scenario, folder, server if store == "s3" else None, namespaces=namespaces, say=print if options.verbose else lambda _: None
        )  # fmt: skip
    except AssertionError as error:
        print(f"seed {seed}, {store}: BROKEN after {monotonic() - began:.0f} s\n{error}\n", flush=True)
        return False
    shutil.rmtree(folder)
    print(f"seed {seed}, {store}: holds, {len(scenario.actions)} actions, {monotonic() - began:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
