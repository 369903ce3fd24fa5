"""Play seeds: ``python -m tests.chaos SEED [COUNT] [--store folder|s3|gs|az] [--containers] [--more]``; see ``scenario`` and ``play``.

A seed always draws the same actions; the timing of the real processes differs from one play to the next. A seed that breaks a rule is
printed with everything that was done and seen, its files are kept, and the exit status is 1.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from time import monotonic

from tests.chaos.containers import containers
from tests.chaos.machines import may_make_namespaces
from tests.chaos.play import play
from tests.chaos.scenario import Scenario, draw, draw_in_containers, draw_more
from tests.stores import StoreServer, missing, running


def main() -> int:
    """Play the seeds that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("seed", type=int, help="the first seed")
    parser.add_argument("count", type=int, nargs="?", default=1, help="how many seeds, 1 by default")
    parser.add_argument("--store", choices=["folder", "s3", "gs", "az"], help="where the run is kept; by default, the seed chooses")
    parser.add_argument("--containers", action="store_true", help="run in containers of this machine's Docker Engine")
    parser.add_argument("--more", action="store_true", help="the seed also chooses Google's storage, Azure's, or containers")
    parser.add_argument("--motifs", type=int, default=3, help="at most so many misfortunes a seed")
    parser.add_argument("--verbose", action="store_true", help="say what is done meanwhile")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    namespaces = may_make_namespaces()
    print(f"the machines have {'network namespaces of their own' if namespaces else 'no network namespaces (only root may make them)'}")
    broken: list[int] = []
    with ExitStack() as until_the_end:
        servers: dict[str, StoreServer] = {}
        for seed in range(options.seed, options.seed + options.count):
            scenario = _drawn(seed, options)
            if scenario.store != "folder" and scenario.store not in servers:
                if reason := missing(scenario.store):
                    print(f"seed {seed}: not played, since {reason}")
                    continue
                servers[scenario.store] = until_the_end.enter_context(running(scenario.store))
            broken += [] if _played(scenario, servers.get(scenario.store), namespaces, options) else [seed]
    print(f"{options.count} seeds, {len(broken)} broke a rule{': ' if broken else ''}{', '.join(map(str, broken))}")
    return 1 if broken else 0


def _drawn(seed: int, options: argparse.Namespace) -> Scenario:
    if options.more:
        return draw_more(seed, options.motifs)
    return draw_in_containers(seed, options.motifs) if options.containers else draw(seed, options.store, options.motifs)


def _played(scenario: Scenario, server: StoreServer | None, namespaces: bool, options: argparse.Namespace) -> bool:
    seed, store, began = scenario.seed, "containers" if scenario.in_containers else scenario.store, monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    try:
        say = print if options.verbose else lambda _: None
        with containers() if scenario.in_containers else nullcontext() as of_run:
            play(scenario, folder, server, of_run, namespaces=namespaces, say=say)
    except AssertionError as error:
        print(f"seed {seed}, {store}: BROKEN after {monotonic() - began:.0f} s\n{error}\n", flush=True)
        return False
    shutil.rmtree(folder)
    print(f"seed {seed}, {store}: holds, {len(scenario.actions)} actions, {monotonic() - began:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
