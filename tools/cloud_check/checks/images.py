"""Checks of the registry: pushing an image, and removing it."""

import json
from collections.abc import Iterator
from typing import Any

from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from tools.cloud_check.answers import Answer
from tools.cloud_check.bench import NAME, Bench
from tools.cloud_check.registry import login_of, pushed_images, remove_image
from tools.cloud_check.verdicts import Fact, compared, untried


def push(bench: Bench) -> Iterator[Fact]:
    """Push the jobs' image, read it back, and set a separate tag twice."""
    built = bench.client.package(bench.job("plain"), config=str(bench.config.file), provider=bench.cloud, push=True, trust=True)
    reference = parse_reference(built.reference)
    answers = [answer for answer in bench.answers.of("push") if answer.status != 401 and "/manifests/" not in answer.path]
    opened = [answer for answer in answers if answer.method == "POST" and "/blobs/uploads" in answer.path]
    sent = [answer for answer in answers if answer.method == "PUT"]  # each registry names a path of its own for it
    rows = ["one-put-a-blob", *(["azure-registry-scope"] if bench.settings.get("cloud") else [])]
    if sent:
        seen = f"POST {_statuses(opened)}, PUT {_statuses(sent)}"
        fine = {answer.status for answer in opened} == {202} and {answer.status for answer in sent} == {201}
        yield compared("each layer is one POST, answered with 202, and one PUT, answered with 201", seen, fine, *rows)
    else:
        yield untried("each layer is one POST, answered with 202, and one PUT, answered with 201", "the image was there already", *rows)
    with Repository(reference, login=login_of(bench, reference)) as repository:
        manifest = repository.manifest(str(reference.digest))
        if manifest is None:
            yield compared("the image is there under its digest", "it is missing", False)
            return
        document = json.loads(manifest.data)
        kind = manifest.media_type
        yield compared("the image is there under its digest, in the format that was sent", kind, kind == document.get("mediaType", kind))
        yield from _second_of_a_tag(bench, repository, manifest.data, kind)


def registry_cleanup(bench: Bench) -> Iterator[Fact]:
    """Remove the images of this session from the repository, and check whether it cleans up automatically."""
    rows = ("aws-costs-between-runs",) if bench.cloud == "aws" else ()
    images = pushed_images(bench.answers.all())
    if not images:
        built = bench.client.package(bench.job("plain"), config=str(bench.config.file), provider=bench.cloud, push=True, trust=True)
        yield compared("an image can be pushed", built.reference, True)
        images = pushed_images(bench.answers.all())
    for image in images:
        problem = remove_image(bench, image)
        if problem is None:
            yield compared("an image can be removed from the repository", "it was removed", True)
        else:
            yield untried("an image can be removed from the repository", problem)
    found = bench.client.examine([bench.store_url], config=str(bench.config.file), trust=True)
    told = [each for each in found if any(word in each.name for word in ("lifecycle", "retention", "secrets"))]
    for each in told:
        yield compared(f"doctor can read {each.name}", each.detail, "cannot be checked" not in each.detail, *rows)
    if not told:
        yield untried("doctor can read what limits the costs between runs", f"doctor has no such finding for {bench.cloud}", *rows)


def _second_of_a_tag(bench: Bench, repository: Repository, data: bytes, kind: str) -> Iterator[Fact]:
    """Use one tag for two images in turn: a registry with immutable tags refuses the second."""
    expected = "another image for a tag that may not be changed is refused with a status from 400 to 499"
    rows = ("artifact-registry-status-of-an-immutable-tag",) if bench.cloud == "gcp" else ()
    tag, number = f"{NAME}-{bench.stamp}", len(bench.answers.all())
    repository.push_manifest(data, kind, tag)
    try:
        repository.push_manifest(json.dumps(json.loads(data), indent=1).encode(), kind, tag)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the status of the answer is what counts
        said = str(error)
    else:
        yield untried(expected, "tags of this repository can be changed", *rows)
        return
    statuses = [answer.status for answer in bench.answers.since(number) if answer.method == "PUT" and "/manifests/" in answer.path]
    status = statuses[-1] if statuses else None
    yield compared(expected, f"{status}: {said}", status is not None and 400 <= status < 500, *rows)


def _statuses(answers: list[Answer]) -> str:
    counted: dict[Any, int] = {}
    for answer in answers:
        counted[answer.status] = counted.get(answer.status, 0) + 1
    return ", ".join(f"{status} ({count}×)" for status, count in counted.items()) or "none"
