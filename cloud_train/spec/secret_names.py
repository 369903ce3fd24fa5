"""What must not be shown: the values of names that look like a secret's, and the credentials in URLs.

Neither belongs in a job file, and no message may repeat them. Everything here runs in time proportional to the length of the text. The
worker uses this module too, so it has to work on Python 3.10 with the standard library alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

COVER = "•"
"""Replaces each hidden character of a line."""

_WORD = r"(?:(?:API|ACCESS|PRIVATE|SECRET)?KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)"
_SECRET = re.compile(rf"(?:^|_){_WORD}(?:_|$)", re.IGNORECASE)
# The lookarounds match each name once and as a whole, so that the search does not try again from its second character.
_ASSIGNED = re.compile(r"(?<![A-Za-z0-9_])([A-Za-z0-9_]+)(?![A-Za-z0-9_])[\"']?\s*[:=]\s*")
_NEW_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]")
_GRANTING = re.compile(
    r"(?:^|_)(?:sig|sas|hmac|jwt|auth|authorization|pwd|pass|session(?:_?id)?|hdnts|hdnea|(?:[a-z]{0,20})(?:signature|token|secret|password))"
    r"(?:_|$)",
    re.IGNORECASE,
)
"""Names of signatures and logins in URLs, in addition to those of ``_SECRET``."""
_CHUNK = re.compile(r"\S+")
_SCHEME = ":/"
_DIGEST = "@sha256:"  # of an image
_STORE = re.compile(r"(?<![A-Za-z0-9+.-])(?:s3|gs|az|file)\Z")
_LONGEST_STORE = len("-file")
_ESCAPED_SLASH = re.compile(r"\\(?:/|x2f|u002f|U0000002f)", re.IGNORECASE)
"""A slash as quoted strings of YAML or JSON may escape it."""
_PORT = re.compile(r"[0-9]{1,5}(?=[/?#]|$)")
_AROUND = "\"'`,;)]}>"
"""Punctuation that may follow a URL in a line without belonging to it."""


def looks_secret(name: str) -> bool:
    """Whether the environment variable ``name`` looks like a secret's: ``WANDB_API_KEY`` does, ``TOKENIZERS_PARALLELISM`` does not."""
    return _SECRET.search(name) is not None


def granting_parameter(url: str) -> str | None:
    """The name of the first parameter in the query or the fragment of ``url`` that looks like a signature, a key or a login.

    A URL with one is itself a secret: it grants what it was signed for.
    """
    start = min((place for mark in "?#;" if (place := url.find(mark)) >= 0), default=len(url))
    for part in re.split("[?#&;]", unquote(unquote(url[start:]))):  # a URL inside a URL is percent-encoded, maybe twice
        name, equals, value = part.partition("=")
        spelt = _NEW_WORD.sub("_", name)
        if equals and value and (looks_secret(spelt) or _GRANTING.search(spelt)):
            return name
    return None


def masked(line: str) -> str:
    """A line of a file as a message may show it, with every character still in its column.

    Hidden are the rest of the line after a name that looks like a secret's, and the user, password, query and fragment of URLs.
    """
    for match in _ASSIGNED.finditer(line):
        if looks_secret(match[1]):
            line = line[: match.end()] + COVER * (len(line) - match.end())
            break
    escaped = _ESCAPED_SLASH.search(line)
    if escaped:  # such a URL would have to be decoded to find its parts
        line = covered(line, [(escaped.end(), len(line))])
    return covered(line, credentials(line))


def covered(line: str, spans: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> str:
    """``line`` with every character of the spans hidden."""
    characters: list[str] | None = None
    for start, end in spans:
        characters = list(line) if characters is None else characters
        characters[start:end] = COVER * (min(end, len(line)) - start)
    return line if characters is None else "".join(characters)


def without_credentials(text: str) -> str:
    """``text`` with ``…`` in place of the user, password, query and fragment of every URL in it."""
    if not _may_hold_credentials(text):
        return text
    parts, done = [], 0
    for start, end in credentials(text):
        parts += [text[done:start], "…"]
        done = end
    return "".join([*parts, text[done:]])


def credentials(text: str) -> Iterator[tuple[int, int]]:
    """The spans of ``text`` where URLs may hold credentials: the part before ``@``, and everything after ``?`` or ``#``.

    In a store's URL ``#`` is part of a key, but a signature may have been pasted after ``?``. A URL that was treated as a path has lost one
    of its two slashes and counts too; so does one without a scheme (``user:password@host``, ``host/name?signature=…``).
    """
    if not _may_hold_credentials(text):
        return
    for chunk in _CHUNK.finditer(text):
        if _SCHEME in chunk[0]:
            yield from _in_chunk(text, chunk.start() + chunk[0].index(_SCHEME), chunk.start() + len(chunk[0].rstrip(_AROUND)))
            continue
        if (end := _end_of_login(chunk[0])) > 0:
            yield chunk.start(), chunk.start() + end
        query, stop = chunk[0].find("?", end), len(chunk[0].rstrip(_AROUND))
        if query >= 0 and chunk[0].find("=", query, stop) >= 0:
            yield chunk.start() + query + 1, chunk.start() + stop


def _may_hold_credentials(text: str) -> bool:
    return _SCHEME in text or "@" in text or "?" in text


def _end_of_login(text: str) -> int:
    """Where user and password end in what may be a URL without its scheme, ``user:password@host``; 0 if there are none."""
    at, colon = text.rfind("@"), text.find(":")
    return at if 0 <= colon < at and not text.startswith(_DIGEST, at) else 0


def _in_chunk(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The credentials in the URLs of one run of characters without spaces; the first URL's ``:/`` is at ``start``."""
    while 0 <= start < end:
        is_store = _STORE.search(text[max(0, start - _LONGEST_STORE) : start]) is not None
        start += len(_SCHEME)
        start += text.startswith("/", start)
        following = text.find(_SCHEME, start, end)
        stop = end if following < 0 else following
        last = _end_of_user(text[start:stop])
        if last:
            yield start, start + last
        elif not is_store and (path := _login_in_path(text[start:stop])) is not None:
            yield start + path[0], start + path[1]
        behind = min((place for mark in ("?" if is_store else "?#") if (place := text.find(mark, start + last, stop)) >= 0), default=-1)
        if behind >= 0:
            if behind + 1 < end:
                yield behind + 1, end
            return
        start = following


def _end_of_user(url: str) -> int:
    """Where user and password end in what follows ``://``: at the ``@``. 0 if there are none."""
    host = re.split("[/?#]", url, maxsplit=1)[0]
    if "@" in host:
        return host.rindex("@")
    # A password that was not percent-encoded may contain a slash; after a host, the colon would begin a port.
    _, colon, rest = url.partition(":")
    return url.rindex("@") if colon and ":" in host and "@" in rest and not _PORT.match(rest) else 0


def _login_in_path(url: str) -> tuple[int, int] | None:
    """Where the path of what follows ``://`` has text before an ``@``, which may be a token with a slash in it; digests do not count."""
    path = re.split("[?#]", url, maxsplit=1)[0]
    slash, at = path.find("/"), path.rfind("@")
    is_login = 0 <= slash < at and ":" not in path[:slash] and not path.startswith(_DIGEST, at)
    return (slash + 1, at) if is_login else None
