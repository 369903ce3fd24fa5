"""Recognizes files with a key or a login by their content, because ``id_ed25519`` may have been copied to ``deploy.txt``.

It recognizes keys and logins as text (PEM and the like, also in UTF-16, and quoted in programs, JSON and mail), keys as DER (PKCS #1, #8,
#12, SEC 1), OpenPGP's and Java's key stores, and all but the last two also in base64 or hexadecimal. Archives are not opened, and large
files are not read. Every repetition in an expression is bounded or cannot backtrack, so the time is proportional to a file's size.
"""

import binascii
import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cloud_train.beneath import open_plain, read_all

LARGEST_BYTES = 1_000_000
"""Larger files are not opened: key files are small."""

_AZURITE = b"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The well-known key of every Azurite: https://github.com/Azure/Azurite#default-storage-account"""
_EXAMPLE_HOST = rb"(?:[a-z0-9.-]{1,60}\.)?example(?:\.(?:com|net|org))?"
"""Hosts reserved for examples, which have no logins (RFC 2606)."""
_QUOTE = rb"\\{0,8}[\"']?"
"""An optional quotation mark, escaped if a document is embedded in another one."""
_BETWEEN = rb"(?:[\s\\\"'+,>#|*;()bBfFuUrn]|&#x?[0-9A-Da-d]{1,2};|%0[aAdD]){1,60}"
"""The text between two lines of a key, including keys in a program, a comment, JSON, XML or mail."""
_LENGTH = rb"(?:[\x00-\x80]|\x81.|\x82..|\x83...)"
"""The length of a value in DER, or in BER, which also has indefinite lengths (ITU-T X.690, 8.1.3)."""
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
_PGP = re.compile(
    rb"(?:\x94.|\x95..|\x96....|\xc5(?:[\x00-\xbf]|[\xc0-\xdf].|\xff....))[\x04\x06]....(?:....)??"  # a secret key (RFC 9580, 4.2 and 5.5)
    rb"(?:[\x01-\x03\x10\x11\x14][\x00-\x40]|[\x12\x13\x16][\x03-\x0a][\x2a\x2b]|[\x19-\x1c])",  # its algorithm and first number
    re.DOTALL,
)
_RUN_CHARACTERS = 40
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{40,}+(?:\s{1,40}[A-Za-z0-9+/_-]{40,}+)*+(?:\s{1,40}[A-Za-z0-9+/_-]{1,200})?={0,2}")
"""Lines of base64; the last may be short."""
_AS_BASE64 = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-", b"A" * 66)
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_HEX = re.compile(rb"(?:(?:0x|\\x)?[0-9A-Fa-f]{2}[:,\s\"']{0,8}){40,}+")
_HEX_MARK = re.compile(rb"0x|\\x")
_AS_HEX = bytes.maketrans(b"0123456789abcdefABCDEF", b"H" * 22)
_AROUND_HEX = b"x\\:, \t\r\n\v\f\"'"
_DEEPEST = 2
"""How often content is decoded: twice for a key in base64 inside a document in base64."""
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
            "a secret key",
            (b"ecret", b"ECRET"),
            rb"(?i:secret_?(?:access_?)?key)"
            + _QUOTE
            + rb"\s{0,8}[=:]\s{0,8}"
            + _QUOTE
            + rb"[A-Za-z0-9/+]{40}(?<!EXAMPLEKEY)(?![A-Za-z0-9/+])",
        ),
        ("a private key", (b"private-key",), rb"\((?:[0-9]{2}:)?(?:protected-)?private-key\s?\((?:[0-9]:)?(?:rsa|dsa|elg|ecc|ecdsa|ecdh)"),
        ("a private key", (b"openssh-key-v1",), rb"openssh-key-v1\x00\x00"),
        ("a login", (b"refresh_token",), rb"refresh_token" + _QUOTE + rb"\s{0,8}:\s{0,8}" + _QUOTE + rb"[A-Za-z0-9/+=._-]{20}"),
        ("a login", (b"credential_type",), rb"[\"']secret" + _QUOTE + rb"\s{0,8}:\s{0,8}" + _QUOTE + rb"[A-Za-z0-9/+=._-]{20}"),
        ("a cluster's token", (b"current-context", b"clusters"), rb"(?<![A-Za-z])token\"?:\s{1,8}\"?[A-Za-z0-9._~+/=-]{16}"),
        ("a cluster's token", (b"user:", b'"user"'), rb"user\"?:[\s{]{1,60}\"?token\"?:\s{1,8}\"?[A-Za-z0-9._~+/=-]{16}"),
        ("an access token", (b"hvs.", b"hvb.", b"hvr."), rb"(?<![A-Za-z0-9])hv[sbr]\.[A-Za-z0-9_-]{24}"),
        ("an access token", (b"ya29.",), rb"(?<![A-Za-z0-9])ya29\.[A-Za-z0-9_-]{40}"),
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
"""A kind of secret, texts of which one must occur (a quick check first), and the expression that recognizes it."""


def key_in(path: Path) -> str | None:
    """The kind of key or login in the file, such as ``a private key``; None if there is none, or the file cannot be read."""
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
    """Like ``key_in``, for a file's content."""
    if _JAVA.match(data) or _PGP.match(data):
        return "a key store"
    return _key_in(data, 0)


def _key_in(data: bytes, depth: int) -> str | None:
    if _DER.match(data):
        return "a private key"
    text = _as_ascii(data)
    for what, needles, expression in _KINDS:
        if any(needle in text for needle in needles) and expression.search(text):
            return what
    found = (_key_in(inner, depth + 1) for inner in _decoded(text)) if depth < _DEEPEST else ()
    return next((what for what in found if what is not None), None)


def _decoded(text: bytes) -> Iterator[bytes]:
    """The decoded base64 and hexadecimal parts of a text. Most texts have neither, which a quick check shows."""
    if b"A" * _RUN_CHARACTERS in text.translate(_AS_BASE64):
        for run in _BASE64.finditer(text):
            letters = run[0].translate(_FROM_URL, b" \t\r\n\v\f=")
            yield binascii.a2b_base64(letters[: len(letters) // 4 * 4])
    if b"H" * (2 * _RUN_CHARACTERS) in text.translate(_AS_HEX, _AROUND_HEX):
        for run in _HEX.finditer(text):
            yield bytes.fromhex(_HEX_MARK.sub(b"", run[0]).translate(None, _AROUND_HEX).decode("ascii"))


def _as_ascii(data: bytes) -> bytes:
    """UTF-16, which PowerShell's ``>`` writes, converted to ASCII; anything else unchanged."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace").encode("ascii", errors="replace")
    for encoding, high in (("utf-16-le", 1), ("utf-16-be", 0)):
        if len(data) >= 2 and not any(data[high:64:2]) and all(data[1 - high : 64 : 2]):
            return data.decode(encoding, errors="replace").encode("ascii", errors="replace")
    return data
