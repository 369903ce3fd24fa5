"""Commented job files to start from."""

from importlib.resources import files
from typing import Literal, get_args

from cloud_train.errors import UsageError

Kind = Literal["cnn", "rnn", "script"]
KINDS: tuple[str, ...] = get_args(Kind)


def starter(kind: str, name: str) -> str:
    """The text of a job file for a model of ``kind`` (one of ``KINDS``), called ``name``.

    Raises UsageError for another kind, or a name that a job cannot have.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of starter job {kind!r}", hint=f"choose one of {', '.join(KINDS)}")
    _check(name)
    text = (files("cloud_train.job") / "starters" / f"{kind}.yaml").read_text(encoding="utf-8")
    # Quoted if YAML would read it as a number, such as the name 2024.
    return text.replace(f"name: my-{kind}", f"name: {name if name[:1].isalpha() and name not in _WORDS else repr(name)}", 1)


_WORDS = frozenset({"null", "true", "false"})


def _check(name: str) -> None:
    import re

    from cloud_train.spec.section import NAME_PATTERN, PATTERNS

    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"invalid job name {name!r}", hint=f"expected: {PATTERNS[NAME_PATTERN]}")
