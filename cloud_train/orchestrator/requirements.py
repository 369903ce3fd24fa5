"""Whether a Python on this machine has the packages that a requirements file asks for, as pip would read it."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from cloud_train.environment import inherited
from cloud_train.errors import MissingDependencyError
from cloud_train.job.program_file import program_python
from cloud_train.networks.base import ScriptModel
from cloud_train.providers.base import Provider
from cloud_train.run.plan import Plan
from cloud_train.spec.paths import read_plain

_LARGEST_BYTES = 1 << 20
_DEEPEST = 5
_SHOWN = 3
_SECONDS = 30
_USUAL = ("python", "python3")
"""Where PATH does not have these, the worker starts its own interpreter in their place."""
_OTHER_FILE = re.compile(r"(?:-r|--requirement)[ =]*(.+)")
_COMMENT = re.compile(r"(^|\s)#.*")
_OPTIONS = re.compile(r"\s--?[a-z].*")

_ASK = """
import json, os, platform, sys
from importlib.metadata import distributions
installed = {}
for found in distributions():
    name = found.metadata["Name"]
    if name and name not in installed:
        installed[name] = found.version
version = sys.implementation.version
print(json.dumps({"installed": installed, "markers": {
    "implementation_name": sys.implementation.name,
    "implementation_version": "%d.%d.%d" % version[:3],
    "os_name": os.name,
    "platform_machine": platform.machine(),
    "platform_python_implementation": platform.python_implementation(),
    "platform_release": platform.release(),
    "platform_system": platform.system(),
    "platform_version": platform.version(),
    "python_full_version": platform.python_version(),
    "python_version": "%d.%d" % sys.version_info[:2],
    "sys_platform": sys.platform,
}}))
"""


def lacking(provider: Provider, plan: Plan) -> MissingDependencyError | None:
    """The error if the Python that will run the job lacks what ``image.requirements`` asks for; None if it does not, or that is unknown.

    A job from another machine's user names no file that would be read here.
    """
    if plan.job.image.requirements is None or plan.is_foreign:
        return None
    file = Path(plan.job_file).parent / Path(plan.job.image.requirements).expanduser()
    python = _python_of(provider, plan)
    if python is None or not (missing := unmet(file, python, {**inherited(), **plan.program.environment})):
        return None
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    install = shlex.join([python, "-m", "pip", "install", "-r", str(file)])
    return MissingDependencyError(
        f"image.requirements: {python} does not have what {file} asks for: {', '.join(missing[:_SHOWN])}{more}",
        hint=f"{plan.provider!r} runs no container, so nothing is installed for a run; install it with: {install}",
    )


def unmet(file: Path, python: str, environment: Mapping[str, str]) -> list[str]:
    """What ``file`` asks for and ``python`` does not have, such as ``numpy>=3 (has 2.3.1)``; empty if ``python`` cannot be asked.

    Extras are not looked into, and neither are folders and URLs without a name.
    """
    wanted = list(_read(file))
    if not wanted or (here := _ask(python, environment)) is None:
        return []
    versions, markers = here
    found = []
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        with suppress(ValueError):  # a version or a comparison that has no meaning
            if requirement.marker is not None and not requirement.marker.evaluate(markers):
                continue
            asked = f"{requirement.name}{requirement.specifier}"
            if name not in versions:
                found.append(f"{asked} (not installed)")
            elif versions[name] and not requirement.specifier.contains(versions[name], prereleases=True):
                found.append(f"{asked} (has {versions[name]})")
    return found


def _python_of(provider: Provider, plan: Plan) -> str | None:
    """The interpreter that will run the program, as far as its command shows it."""
    own = provider.interpreter(plan.provider_settings)
    model = plan.job.model
    if not isinstance(model, ScriptModel):
        return own
    word = program_python(model.command)
    if word is None:
        return None
    if "/" in word:
        return str(Path(plan.program.directory) / Path(word).expanduser())
    path = plan.program.environment.get("PATH", os.environ.get("PATH", os.defpath))
    return shutil.which(word, path=path) or (own if word in _USUAL else None)


def _read(file: Path, depth: int = 0) -> Iterator[Requirement]:
    """The requirements in a file and in those that it names. What cannot be read or has no name is left out, as a check of it would be."""
    try:
        text = (read_plain(file, _LARGEST_BYTES) or b"").decode(errors="replace")
    except (OSError, ValueError):  # it is missing, or its name has a NUL byte
        return
    for line in text.replace("\\\n", " ").splitlines():
        said = _COMMENT.sub("", line).strip()
        if other := _OTHER_FILE.fullmatch(said):
            if depth < _DEEPEST:
                yield from _read(file.parent / other[1].strip(), depth + 1)
        elif said and not said.startswith("-"):
            try:
                yield Requirement(_OPTIONS.sub("", said))
            except InvalidRequirement:
                continue


def _ask(python: str, environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]] | None:
    """The versions of the packages that an interpreter has, and the values of markers there; None if it does not answer."""
    try:
        answer = subprocess.run(
            [python, "-c", _ASK], cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=True
        )
        said = json.loads(answer.stdout)
        return {canonicalize_name(name): version for name, version in said["installed"].items()}, said["markers"]
    except (OSError, ValueError, LookupError, TypeError, subprocess.SubprocessError):
        return None
