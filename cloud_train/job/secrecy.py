"""Which names are those of secrets: a job file is no place for their values, and no message shows them."""

import re

_WORD = r"(?:(?:API|ACCESS|PRIVATE|SECRET)?KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)"
_SECRET = re.compile(rf"(?:^|_){_WORD}(?:_|$)", re.IGNORECASE)
SECRET_VALUE = re.compile(rf"(?:^|[^A-Za-z0-9]){_WORD}(?:_[A-Za-z0-9_]*)?[\"']?\s*[:=]\s*", re.IGNORECASE)
"""A name that looks like a secret's in a line of text, up to where its value begins."""


def looks_secret(name: str) -> bool:
    """Whether the environment variable ``name`` looks like a secret's: ``WANDB_API_KEY`` does, ``TOKENIZERS_PARALLELISM`` does not."""
    return _SECRET.search(name) is not None
