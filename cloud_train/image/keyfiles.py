"""Files that hold a key or a login, told by their content: a name says nothing where somebody copied ``id_ed25519`` to ``deploy.txt``.

Only the beginning of a file that is small enough to be one of these is read. Every expression repeats a bounded number of times, so a file
takes time in proportion to its size.
"""

import os
import re
from pathlib import Path

from cloud_train.beneath import open_plain, read_all

LARGEST_BYTES = 1_000_000
"""A larger file is no key file, and is not opened."""
_READ_BYTES = 64 * 1024

_AZURITE = b"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that every Azurite has: https://github.com/Azure/Azurite#default-storage-account"""
_EXAMPLE_HOST = rb"(?:[a-z0-9.-]{1,60}\.)?example(?:\.(?:com|net|org))?"
"""The hosts of examples, which nobody can log in at (RFC 2606)."""
_BETWEEN = rb"(?:\s|\\[rn]|[\"'+,]){1,40}"
"""What stands between two lines of a key, also where it is text in a program or in JSON."""
_KINDS: tuple[tuple[str, tuple[bytes, ...], "re.Pattern[bytes]"], ...] = tuple(
    (what, needles, re.compile(pattern))
    for what, needles, pattern in (
        (
            "a private key",
            (b"PRIVATE KEY",),
            rb"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----" + _BETWEEN + rb"(?:Proc-Type|Version|Comment|[A-Za-z0-9+/=]{16})",
        ),
        ("a private key", (b"PuTTY-User-Key-File-",), rb"PuTTY-User-Key-File-[23]:"),
        ("a private key", (b"AGE-SECRET-KEY-",), rb"AGE-SECRET-KEY-1[A-Z0-9]{20}"),
        (
            "an AWS secret key",
            (b"aws_secret", b"AWS_SECRET", b"awsSecret", b"AWSSecret"),
            rb"(?i:aws_?secret_?access_?key)[\"']?\s{0,8}[=:]\s{0,8}[\"']?[A-Za-z0-9/+]{40}(?<!EXAMPLEKEY)(?![A-Za-z0-9/+])",
        ),
        ("a storage account's key", (b"AccountKey=",), rb"AccountKey=(?!" + re.escape(_AZURITE) + rb")[A-Za-z0-9+/]{86}=="),
        (
            "a login",
            (b"machine",),
            rb"machine\s{1,40}(?!" + _EXAMPLE_HOST + rb"\s)\S{1,200}\s{1,40}login\s{1,40}\S{1,200}\s{1,40}password\s{1,40}\S",
        ),
        (
            "a registry's login",
            (b'"auths"',),
            rb'"(?:auth|identitytoken|registrytoken)"\s{0,40}:\s{0,40}"[A-Za-z0-9+/=_.-]{8}',
        ),
        ("a cluster's key", (b"client-key-data",), rb"client-key-data\"?:\s{1,40}\"?[A-Za-z0-9+/=]{40}"),
        ("an access token", (b"github_pat_",), rb"github_pat_[A-Za-z0-9_]{60}"),
        ("an access token", (b"glpat-",), rb"glpat-[A-Za-z0-9_-]{20}"),
        ("an access token", (b"hf_",), rb"hf_[A-Za-z0-9]{34}(?![A-Za-z0-9])"),
        ("an access token", (b"ghp_",), rb"ghp_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("an access token", (b"gho_",), rb"gho_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("an access token", (b"npm_",), rb"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("an access token", (b"pypi-AgE",), rb"pypi-AgE[A-Za-z0-9_-]{40}"),
        ("an access token", (b"xoxb-",), rb"xoxb-[0-9]{8,20}-[A-Za-z0-9-]{20}"),
    )
)
"""What it is, texts of which it has one, which are looked for first because that is quicker, and how it is told."""


def key_in(path: Path) -> str | None:
    """What kind of key or login the file holds, such as ``a private key``; None for none, and for a file that cannot be read."""
    try:
        descriptor = open_plain(path)
        try:
            data = read_all(descriptor, 0, _READ_BYTES)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return key_in_bytes(data)


def key_in_bytes(data: bytes) -> str | None:
    """As ``key_in``, of a file's beginning."""
    for what, needles, expression in _KINDS:
        if any(needle in data for needle in needles) and expression.search(data):
            return what
    return None
