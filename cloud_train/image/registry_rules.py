"""Requirements of particular registries that the specification does not have, by the registry's host."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """What a registry requires."""

    largest_layer: int | None = None
    """The size in bytes of the largest layer that it accepts; None if it documents none."""
    needs_docker_format: bool = False
    """Whether images have to be in Docker's format (schema 2), even if their base is in OCI's."""
    takes_chunks: bool = True
    """Whether it may accept a blob in chunks, if it refuses a whole one."""


_ECR = re.compile(r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.[a-z0-9-]+\.(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|on\.aws)(?::[0-9]+)?")
_ECR_RULES = Rules(largest_layer=52_000 << 20, needs_docker_format=True, takes_chunks=False)
"""The layer: https://docs.aws.amazon.com/AmazonECR/latest/userguide/service-quotas.html.

The format: ECR accepts both, but converts OCI's into Docker's only for a pull by tag
(https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-manifest-formats.html). cloud-train names images by digest, and SageMaker is
known to refuse OCI's for models (https://github.com/aws/amazon-sagemaker-feedback/issues/180). Artifact Registry and Azure Container
Registry store what they get, and the machines of Vertex AI and Azure ML run both formats, so a base's own format is kept there.

Chunks: ECR reports a wrong position within a blob (https://github.com/aws/containers-roadmap/issues/2831).
"""
_GOOGLE = re.compile(r"[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io")
_GOOGLE_RULES = Rules(takes_chunks=False)
"""https://cloud.google.com/artifact-registry/docs/reference/docker-api"""


def rules_of(host: str) -> Rules:
    """The rules of the registry at ``host[:port]``."""
    host = host.lower()
    return _ECR_RULES if _ECR.fullmatch(host) else _GOOGLE_RULES if _GOOGLE.fullmatch(host) else Rules()
