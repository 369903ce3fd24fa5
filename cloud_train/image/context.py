"""The files of a folder that go into an image, and those that look like secrets or data, by name and (in ``check``) by content."""

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from cloud_train.beneath import IrregularError, open_file, read_all
from cloud_train.image.errors import ImageError
from cloud_train.image.gitignore import GitPatterns
from cloud_train.image.ignore import Patterns, parse_patterns
from cloud_train.image.keyfiles import LARGEST_BYTES, key_in

MOST_BYTES = 100 * 1000**2
"""A larger context is refused: data belongs in a store, not in an image."""
_MOST_IGNORING_BYTES = 256 * 1000
_MANY = 5_000
"""Listing more files than this takes noticeable time."""
LARGE_FILE_BYTES = 10 * 1000**2
"""A larger file is reported."""

IGNORED_BY_DEFAULT = """
**/.git
**/.hg
**/.svn
**/__pycache__
**/*.pyc
**/.venv
**/venv
**/node_modules
**/.cloud-train
**/.mypy_cache
**/.pytest_cache
**/.ruff_cache
**/.ipynb_checkpoints
**/.DS_Store
.dockerignore
"""
"""Ignored unless a line of ``.dockerignore`` includes it with ``!``."""

SECRETS = (
    *(".env*", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.keystore", "*.kdbx"),
    *("id_rsa*", "id_dsa*", "id_ed25519*", "id_ecdsa*", "secring.*"),
    *("credentials*", "*_credentials.json", "*-credentials.json", "client_secret*.json", "service_account*.json", "service-account*.json"),
    *(".git-credentials", ".netrc", "_netrc", ".authinfo*", ".npmrc", ".pypirc", ".dockercfg", ".htpasswd"),
    *(".pgpass", "pgpass.conf", ".my.cnf", ".mylogin.cnf"),
    *(".s3cfg", ".boto", ".databrickscfg", ".vault-token", "rclone.conf", "kaggle.json", "msal_token_cache*", "accesstokens.json"),
    *("kubeconfig", "kubeconfig.*", "*.kubeconfig", ".terraformrc", "terraform.tfstate*"),
)
"""Names of files that often contain a key or a password, in any case."""
DATA = ("*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.npz", "*.npy", "*.h5", "*.parquet", "*.tar*", "*.tgz", "*.zip")
"""Names of files that usually are data or weights."""
NOT_SECRET = (".env.example", ".env.sample", ".env.template", "*.py")
"""Names that match SECRETS but are harmless: templates, and modules such as credentials.py."""


@dataclass(frozen=True)
class Entry:
    """A file, folder or symbolic link in the context."""

    path: str
    """Relative to the folder, with ``/``; bytes that are not UTF-8 are surrogates, as in ``os.fsdecode``."""
    kind: Literal["file", "folder", "link"]
    size: int = 0
    """Bytes; 0 for folders and links."""
    modified_ns: int = 0
    executable: bool = False
    target: str = ""
    """The target of a link."""


@dataclass(frozen=True)
class Suspect:
    """A file that may not belong in an image."""

    path: str
    size: int
    kind: Literal["secret", "data", "large"]
    asked_for: bool
    """Whether a line of ``.dockerignore`` with ``!`` includes it by name."""
    holds: str = ""
    """The kind of a secret that was recognized by its content."""


@dataclass(frozen=True)
class Context:
    """The files of ``folder`` that go into an image, sorted by path."""

    folder: Path
    entries: tuple[Entry, ...]
    total_bytes: int
    suspects: tuple[Suspect, ...]
    own: Patterns
    """The lines of the folder's ``.dockerignore``."""
    left_out_by_git: tuple[str, ...] = ()
    """Files and folders that only the folder's ``.gitignore`` leaves out, without what is in those folders."""


@dataclass
class _Rules:
    """What is left out: by Docker's rules, and by git's unless a line with ``!`` in the ``.dockerignore`` includes it."""

    by_docker: Patterns
    by_git: GitPatterns
    own: Patterns
    left_out_by_git: list[str] = field(default_factory=list)

    def ignores(self, path: str, is_folder: bool, is_below_ignored: bool) -> bool:
        """Whether a file or folder is left out; notes what only git's rules leave out, unless it is in a folder that is left out."""
        if self.by_docker.ignores(path):
            return True
        if not self.by_git.ignores(path, is_folder) or self.own.brings_back(path):
            return False
        if not is_below_ignored:
            self.left_out_by_git.append(path)
        return True


def survey(folder: Path, note: Callable[[str], None] = lambda _: None) -> Context:
    """List a folder by Docker's ignore rules; ``note`` is told about a large one while it is listed.

    Raises ImageError for anything that cannot go into an image, such as a link out of it.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder", hint="use the folder that contains your code")
    own = Patterns(parse_patterns(*_lines_of(folder, ".dockerignore")))
    by_docker = Patterns([*parse_patterns(IGNORED_BY_DEFAULT, "the built-in rules"), *own.patterns])
    rules = _Rules(by_docker, GitPatterns(*_lines_of(folder, ".gitignore")), own)
    found: dict[str, Entry] = {}
    for entry in _walk(folder, "", rules):
        found[entry.path] = entry
        if len(found) == _MANY:
            note(f"listing {folder}, which has more than {_MANY:,} files; leave out what the program does not need with a .dockerignore")
    for path in list(found):
        for above in _folders_above(path):
            found.setdefault(above, Entry(above, "folder"))
    entries = tuple(found[path] for path in sorted(found, key=os.fsencode))
    suspects = (_suspect(entry, own) for entry in entries if entry.kind == "file")
    left_out = tuple(sorted(rules.left_out_by_git, key=os.fsencode))
    return Context(folder, entries, sum(entry.size for entry in entries), tuple(suspect for suspect in suspects if suspect), own, left_out)


def check(context: Context, note: Callable[[str], None]) -> None:
    """Refuse a context that is too large or contains a likely secret, by name or content; report likely data."""
    secrets = [suspect for suspect in context.suspects if suspect.kind == "secret" and not suspect.asked_for]
    if context.total_bytes <= MOST_BYTES:
        secrets += _key_files(context, {suspect.path for suspect in context.suspects if suspect.kind == "secret"})
    if secrets:
        raise ImageError(
            f"these files in {context.folder} look like secrets, and would be readable in the image: {_named(secrets)}",
            hint="add them to .dockerignore; to include one anyway, add a line with its name there, such as !config/.env",
        )
    if context.total_bytes > MOST_BYTES:
        largest = sorted((entry for entry in context.entries if entry.kind == "file"), key=lambda entry: -entry.size)[:5]
        raise ImageError(
            f"the code in {context.folder} has {_size(context.total_bytes)}, more than the limit of {_size(MOST_BYTES)}; "
            f"the largest files: {_named(largest)}",
            hint="add everything that is not code to .dockerignore in that folder",
        )
    if left_out := context.left_out_by_git:
        names = ", ".join(map(_shown, left_out[:3])) + (f" and {len(left_out) - 3:,} more" if len(left_out) > 3 else "")
        note(f"left out by .gitignore: {names}; to include one, add a line with ! and its name to .dockerignore")
    for suspect in context.suspects:
        if suspect.kind != "secret" and not suspect.asked_for:
            note(f"{_shown(suspect.path)} ({_size(suspect.size)}) will be in the image; add it to .dockerignore to leave it out")


def _key_files(context: Context, known: set[str]) -> Iterator[Suspect]:
    for entry in context.entries:
        if entry.kind != "file" or not 0 < entry.size <= LARGEST_BYTES or entry.path in known:
            continue
        holds = key_in(context.folder / entry.path)
        if holds and not _is_asked_for(entry.path, context.own):
            yield Suspect(entry.path, entry.size, "secret", asked_for=False, holds=holds)


def _lines_of(folder: Path, name: str) -> tuple[str, str]:
    """The text of a ``.dockerignore`` or a ``.gitignore``, empty if there is none, and its path for errors."""
    file = folder / name
    root, real = os.path.realpath(folder), os.path.realpath(file)
    if not real.startswith(f"{root}/"):
        # An error about an invalid pattern would reveal a line of a private file.
        raise ImageError(f"{file} is a link out of {folder}, so it is not followed", hint="copy its target into the folder")
    try:
        text = _ignoring_text(open_file(root, Path(real).relative_to(root).parts), file)
    except FileNotFoundError:
        text = ""
    except IrregularError as error:
        raise _not_a_file(file) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"cannot read {file}: {error}", hint="correct or remove it") from error
    return text, str(file)


def _ignoring_text(descriptor: int, file: Path) -> str:
    try:
        data = read_all(descriptor, 0, _MOST_IGNORING_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MOST_IGNORING_BYTES:
        raise _not_a_file(file)
    return data.decode("utf-8")


def _not_a_file(file: Path) -> ImageError:
    return ImageError(f"{file} is larger than {_size(_MOST_IGNORING_BYTES)}, or not a regular file", hint="shorten or remove it")


def _walk(folder: Path, above: str, rules: _Rules, is_below_ignored: bool = False) -> Iterator[Entry]:
    try:
        found = list(os.scandir(folder / above))
    except OSError as error:
        raise ImageError(
            f"cannot list {folder / above}: {error.strerror}", hint="change its permissions, or add it to .dockerignore"
        ) from error
    for item in found:
        path = f"{above}/{item.name}" if above else item.name
        is_folder = item.is_dir(follow_symlinks=False)
        ignored = rules.ignores(path, is_folder, is_below_ignored)
        if not ignored:
            yield _entry(folder, path, item)
        if is_folder and not (ignored and not rules.by_docker.may_bring_back_below(path)):
            yield from _walk(folder, path, rules, is_below_ignored or ignored)


def _entry(folder: Path, path: str, item: os.DirEntry[str]) -> Entry:
    if item.name.startswith(".wh."):
        raise ImageError(f"{_shown(path)} cannot be in an image: names that start with '.wh.' mark deletions in layers", hint="rename it")
    status = item.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, "folder")
    if stat.S_ISLNK(status.st_mode):
        return _link(folder, path)
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(
            f"{_shown(path)} in {folder} is a socket, a pipe or a device, which an image cannot contain",
            hint="remove it, or add it to .dockerignore",
        )
    return Entry(path, "file", status.st_size, status.st_mtime_ns, bool(status.st_mode & stat.S_IXUSR))


def _link(folder: Path, path: str) -> Entry:
    target = os.readlink(folder / path)  # noqa: PTH115 - Path.readlink drops a trailing slash, but the link is stored unchanged
    written = os.path.normpath(os.path.join(os.path.dirname(path), target))  # noqa: PTH118, PTH120 - operates on text, not files: '..' must be resolved by name
    root = os.path.realpath(folder)
    real = os.path.realpath(folder / path)
    if target.startswith("/") or written.split("/")[0] == ".." or not (real == root or real.startswith(f"{root}/")):
        raise ImageError(
            f"the symbolic link {_shown(path)} leaves {folder}: it points to {_shown(target)}, which will not be in the image",
            hint="copy its target into the folder, make it a relative link inside the folder, or add it to .dockerignore",
        )
    return Entry(path, "link", target=target)


def _folders_above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _suspect(entry: Entry, own: Patterns) -> Suspect | None:
    name = entry.path.rpartition("/")[2].lower()
    kind: Literal["secret", "data", "large"]
    if names_a_secret(name):
        kind = "secret"
    elif _fits(name, DATA):
        kind = "data"
    elif entry.size > LARGE_FILE_BYTES:
        kind = "large"
    else:
        return None
    return Suspect(entry.path, entry.size, kind, _is_asked_for(entry.path, own))


def names_a_secret(name: str) -> bool:
    """Whether a file with this name, in lower case, often contains a key or a password."""
    return _fits(name, SECRETS) and not _fits(name, NOT_SECRET)


def _is_asked_for(path: str, own: Patterns) -> bool:
    # "!*" does not include this file by name.
    return any(pattern.brings_back and pattern.text.rpartition("/")[2].strip("*") and pattern.matches(path) for pattern in own.patterns)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return _any_of(patterns).match(name) is not None


@cache
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    # A single expression is noticeably faster for folders with thousands of files.
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))


def _named(files: "list[Suspect] | list[Entry]") -> str:
    named = [f"{_shown(file.path)} ({_size(file.size)}{_holding(file)})" for file in files[:10]]
    return ", ".join([*named, *([f"and {len(files) - 10} more"] if len(files) > 10 else [])])


def _holding(file: "Suspect | Entry") -> str:
    return f", contains {file.holds}" if isinstance(file, Suspect) and file.holds else ""


def _shown(path: str) -> str:
    return path if path.isprintable() else repr(path)


def _size(size: int) -> str:
    for unit, factor in (("GB", 1000**3), ("MB", 1000**2), ("kB", 1000)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
