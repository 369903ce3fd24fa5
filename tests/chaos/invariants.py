"""What has to hold of a run, whatever happened: judged from what the witness saw and from the program's own notes."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.witness import Write

_STATUS = re.compile(r"attempts/(\d+)/status\.json")
_SEAL = re.compile(r"(checkpoints(?:-(\d+))?/step-(\d+)|model)/manifest\.json")


@dataclass(frozen=True)
class Published:
    """A checkpoint, or with ``step`` None a model, that became visible."""

    attempt: int
    step: int | None
    chain: str | None
    """What is in it; None if the witness did not see that."""
    after: float
    before: float
    folder: int = 1
    """The attempt in whose folder it is."""

    def __str__(self) -> str:
        what = "the model" if self.step is None else f"step {self.step}"
        return f"{what} of attempt {self.attempt} (published {self.after:.2f} to {self.before:.2f})"


@dataclass
class Claim:
    """What the statuses of an attempt said, from the first on."""

    since: float
    tokens: set[str] = field(default_factory=set)
    origin: int | None = None
    step: int | None = None
    states: list[str] = field(default_factory=list)


@dataclass
class History:
    """A run as the witness saw it."""

    claims: dict[int, Claim] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"attempt {number}: since {claim.since:.2f}, from step {claim.step} of attempt {claim.origin}, "
            f"token {'/'.join(sorted(claim.tokens))}, " + " → ".join(claim.states)
            for number, claim in sorted(self.claims.items())
        ]
        return "\n".join([*lines, *(f"{each}: {_in_short(each.chain)}" for each in self.published)])


def history(run_id: str, writes: Sequence[Write]) -> History:
    """Make sense of what was written into a run directory."""
    seen = History()
    contents: dict[tuple[str, str], str] = {}
    for write in writes:
        if write.key.endswith("/chain") and write.data is not None:
            contents[write.key.removesuffix("/chain"), hashlib.sha256(write.data).hexdigest()] = write.data.decode()
    for write in writes:
        name = write.key.removeprefix(f"{run_id}/")
        document = _document(write)
        if document is None or name == write.key:
            continue
        if status := _STATUS.fullmatch(name):
            _note(seen.claims.setdefault(int(status[1]), Claim(write.before)), document)
        elif seal := _SEAL.fullmatch(name):
            chain = contents.get((write.key.removesuffix("/manifest.json"), document.get("files", {}).get("chain", {}).get("sha256", "")))
            step = int(seal[3]) if seal[3] else None
            seen.published.append(Published(document.get("attempt") or 0, step, chain, write.after, write.before, int(seal[2] or 1)))
    return seen


def violations(seen: History, notes: Sequence[str], *, is_atomic: bool) -> Iterator[str]:
    """Every rule that was broken. ``notes`` are the program's: "begin|save|model ATTEMPT STEP PID HOME".

    ``is_atomic``: publishing and claiming exclude each other, as in a folder. In a bucket, what an overtaken attempt sent may arrive late,
    but only in its own folder of checkpoints.
    """
    yield from _numbered(seen)
    yield from _begun_once(notes)
    yield from _chains(seen)
    yield from _overtaken(seen, is_atomic)


def damaged(now: Mapping[str, bytes], run_id: str) -> Iterator[str]:
    """Complete checkpoints, and the model, whose files are not what their manifest says.

    A manifest that arrives late, after its checkpoint has been pruned, stays alone. It does no harm beside a newer checkpoint.
    """
    found = {key: seal for key in now if (seal := _SEAL.fullmatch(key.removeprefix(f"{run_id}/"))) and key.startswith(f"{run_id}/")}
    newest = max((int(seal[3] or 0) for seal in found.values()), default=0)
    for key, seal in found.items():
        name, data = key.removeprefix(f"{run_id}/"), now[key]
        is_old = seal[3] is not None and int(seal[3]) < newest
        if not is_old or f"{key.removesuffix('manifest.json')}chain" in now:
            for file, facts in json.loads(data)["files"].items():
                there = now.get(f"{key.removesuffix('manifest.json')}{file}")
                if there is None or hashlib.sha256(there).hexdigest() != facts["sha256"]:
                    what = "missing" if there is None else "another one"
                    yield f"{name.removesuffix('/manifest.json')} is complete, and its {file} is {what}"


def _numbered(seen: History) -> Iterator[str]:
    if sorted(seen.claims) != list(range(1, len(seen.claims) + 1)):
        yield f"the attempts are numbered {sorted(seen.claims)}"
    for number, claim in seen.claims.items():
        if len(claim.tokens) > 1:
            yield f"attempt {number} belonged to several launches: {sorted(claim.tokens)}"


def _begun_once(notes: Sequence[str]) -> Iterator[str]:
    begun: dict[int, list[str]] = defaultdict(list)
    for note in notes:
        kind, attempt, _, pid, home = note.split()
        if kind == "begin":
            begun[int(attempt)].append(f"process {pid} of {home}")
    for number, programs in begun.items():
        if len(programs) > 1:
            yield f"attempt {number} ran {len(programs)} programs: {', '.join(programs)}"


def _chains(seen: History) -> Iterator[str]:
    for each in seen.published:
        if each.chain is None:
            continue
        links = [(int(attempt), int(step)) for attempt, _, step in (link.partition(":") for link in each.chain.split())]
        if [step for _, step in links] != list(range(1, len(links) + 1)):
            yield f"the chain of {each} has a gap: {_in_short(each.chain)}"
        elif not links or (each.step is not None and links[-1] != (each.attempt, each.step)):
            yield f"{each} holds what another attempt made: {_in_short(each.chain)}"
        else:
            yield from _origins(seen, each, links)


def _origins(seen: History, each: Published, links: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Every attempt in a chain has begun where its status says."""
    before = (0, 0)
    for attempt, step in links:
        if attempt != before[0]:
            claim = seen.claims.get(attempt)
            if claim is None:
                yield f"{each} continues attempt {attempt}, which nobody claimed"
            elif claim.origin is not None and (claim.origin, claim.step or 0) != before:
                yield f"{each}: attempt {attempt} continues {before[1]} of {before[0]}, and says {claim.step} of {claim.origin}"
        before = attempt, step


def _overtaken(seen: History, is_atomic: bool) -> Iterator[str]:
    known: set[tuple[int, int | None, str | None]] = set()
    for each in seen.published:
        what = each.attempt, each.step, each.chain
        if what in known:  # uploaded again by a later attempt, which found it in a workspace on its machine: nothing new
            continue
        known.add(what)
        if each.step is not None and each.folder > each.attempt:  # moved there by the attempt that continues it
            continue
        for number, claim in seen.claims.items():
            if number <= each.attempt or (not is_atomic and each.step is not None and each.folder == each.attempt):
                continue
            firsts = [other.before for other in seen.published if other.attempt == number]
            limit = claim.since if is_atomic else min(firsts, default=float("inf"))
            if each.after > limit:
                yield f"{each} was published after attempt {number} had {'been claimed' if is_atomic else 'published'} at {limit:.2f}"


def _in_short(chain: str | None) -> str:
    """A chain as "attempt:first-last" for each attempt."""
    if chain is None:
        return "not seen"
    steps: dict[str, list[str]] = {}
    for link in chain.split():
        attempt, _, step = link.partition(":")
        steps.setdefault(attempt, []).append(step)
    return " ".join(f"{attempt}:{found[0]}-{found[-1]}" for attempt, found in steps.items())


def _note(claim: Claim, document: Mapping[str, Any]) -> None:
    if document.get("token"):
        claim.tokens.add(document["token"])
    if document.get("origin") is not None:
        claim.origin, claim.step = document["origin"], document.get("resumed_step")
    state = " ".join(str(document[name]) for name in ("state", "cause") if document.get(name))
    if claim.states[-1:] != [state]:
        claim.states.append(state)


def _document(write: Write) -> dict[str, Any] | None:
    if write.data is None or not write.key.endswith(".json"):
        return None
    with suppress(ValueError):
        found = json.loads(write.data)
        return found if isinstance(found, dict) else None
    return None
