"""Files that hold a key or a login, recognized by their content, because ``id_ed25519`` may have been copied to ``deploy.txt``.

Recognized are keys as text (PEM and its kin, also in UTF-16 and in base64), as DER (PKCS #1, #8 and #12, SEC 1), and Java's key stores.
Archives are not opened. Only files that are small enough to be one of these are read. Every expression repeats a bounded number of times,
so a file takes time in proportion to its size.
"""

import base64
import codecs
import os
import re
from pathlib import Path

from cloud_train.beneath import open_plain, read_all

LARGEST_BYTES = 1_000_000
"""A larger file is no key file, and is not opened."""

_AZURITE = b"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that every Azurite has: https://github.com/Azure/Azurite#default-storage-account"""
_EXAMPLE_HOST = rb"(?:[a-z0-9.-]{1,60}\.)?example(?:\.(?:com|net|org))?"
"""The hosts of examples, which nobody can log in at (RFC 2606)."""
_BETWEEN = rb"(?:\s|\\[rn]|[\"'+,]){1,40}"
"""What stands between two lines of a key, also where it is text in a program or in JSON."""
_PEM_IN_BASE64 = tuple(
    base64.b64encode(begin[: len(begin) // 3 * 3])
    for kind in (b"", b"RSA ", b"EC ", b"DSA ", b"OPENSSH ", b"ENCRYPTED ")
    for begin in (b"-----BEGIN " + kind + b"PRIVATE KEY-----",)
)
_DER_IN_BASE64 = (
    b"IBADANBgkqhkiG9w0BAQEFAAS",  # PKCS #8: version 0, RSA
    b"AgEAMBMGByqGSM49AgEGCCqGSM49AwEH",  # PKCS #8: version 0, an elliptic curve, P-256
    b"b3BlbnNzaC1rZXktdjEA",  # openssh-key-v1
)
_LENGTH = rb"(?:[\x00-\x7f]|\x81.|\x82..|\x83...)"
"""Of a value in DER (ITU-T X.690, 8.1.3)."""
_DER = re.compile(
    rb"\x30" + _LENGTH + rb"(?:"
    rb"\x02\x01\x00(?:\x02|\x30" + _LENGTH + rb"\x06)"  # PKCS #1 (RFC 8017, A.1.2), and PKCS #8 (RFC 5208, 5)
    rb"|\x02\x01\x01\x04"  # an elliptic curve's (RFC 5915, 3)
    rb"|\x30" + _LENGTH + rb"\x06.\x2a\x86\x48\x86\xf7\x0d\x01(?:\x05|\x0c)"  # PKCS #8, encrypted (RFC 8018, A)
    rb"|\x02\x01\x03\x30" + _LENGTH + rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07)",  # PKCS #12 (RFC 7292, 4)
    re.DOTALL,
)
_JAVA = re.compile(rb"(?:\xfe\xed\xfe\xed|\xce\xce\xce\xce)\x00\x00\x00[\x01\x02]")
"""JKS and JCEKS: ``sun.security.provider.JavaKeyStore`` of OpenJDK."""
_KINDS: tuple[tuple[str, tuple[bytes, ...], "re.Pattern[bytes]"], ...] = tuple(
    (what, needles, re.compile(pattern))
    for what, needles, pattern in (
        (
            "a private key",
            (b"PRIVATE KEY",),
            rb"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----" + _BETWEEN + rb"(?:Proc-Type|Version|Comment|[A-Za-z0-9+/=]{16})",
        ),
        ("a private key", (b"PuTTY-User-Key-File-",), rb"PuTTY-User-Key-File-[23]:"),
        ("a private key", _PEM_IN_BASE64, b"|".join(map(re.escape, _PEM_IN_BASE64))),
        ("a private key", _DER_IN_BASE64, b"(?:" + b"|".join(_DER_IN_BASE64) + b")[A-Za-z0-9+/]{40}"),
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
            data = read_all(descriptor, 0, LARGEST_BYTES)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return key_in_bytes(data)


def key_in_bytes(data: bytes) -> str | None:
    """As ``key_in``, of a file's content."""
    if _DER.match(data):
        return "a private key"
    if _JAVA.match(data):
        return "a key store"
    text = _as_ascii(data)
    for what, needles, expression in _KINDS:
        if any(needle in text for needle in needles) and expression.search(text):
            return what
    return None


def _as_ascii(data: bytes) -> bytes:
    """UTF-16 as ASCII, because PowerShell's ``>`` writes it; anything else as it is."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace").encode("ascii", errors="replace")
    if len(data) >= 2 and not any(data[1:64:2]) and all(data[0:64:2]):
        return data.decode("utf-16-le", errors="replace").encode("ascii", errors="replace")
    return data
