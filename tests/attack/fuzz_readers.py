"""Fuzz every reader of bytes from a store with atheris, by hand: ``python tests/attack/fuzz_readers.py READER SECONDS [CORPUS]``.

atheris is no dependency: ``pip install atheris`` into an environment that sees this project's packages. Anything but a CloudTrainError, and
whatever takes longer than a second, is a finding: libFuzzer prints the input and ends with a status other than 0.
"""

import json
import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["cloud_train", "json"]):
    from cloud_train.errors import CloudTrainError
    from tests.attack.readers import EXAMPLES, HOSTILE, READERS


def main() -> None:
    """Fuzz one reader for so many seconds, from its examples on."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    corpus = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(EXAMPLES[name]):
        (corpus / f"example-{number}").write_bytes(example)

    def one(data: bytes) -> None:
        with suppress(CloudTrainError):
            READERS[name](data)

    limits = [f"-max_total_time={seconds}", "-timeout=1", "-rss_limit_mb=1024", "-max_len=20000", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(corpus), *limits], one, custom_mutator=mutate)
    atheris.Fuzz()


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    """Change a value of a JSON document, or else a few bytes: the parser is C, which atheris cannot see into."""
    chance = random.Random(seed)
    try:
        document = json.loads(data)
        assert chance.random() < 0.8
    except (ValueError, AssertionError, RecursionError):
        return bytes(atheris.Mutate(data, largest))
    with suppress(ValueError, RecursionError):
        return json.dumps(changed(document, chance), ensure_ascii=chance.random() < 0.9).encode(errors="surrogatepass")[:largest]
    return data


def changed(value: Any, chance: random.Random) -> Any:
    """The value with one thing in it replaced, dropped or added."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        return {**value, key: changed(value[key], chance)} if chance.random() < 0.9 else {k: v for k, v in value.items() if k != key}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], changed(value[at], chance), *value[at + chance.randrange(2) :]]
    return chance.choice(HOSTILE)


if __name__ == "__main__":
    main()
