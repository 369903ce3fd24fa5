"""How many samples of each class are held out for validation. Imports no torch: a dry run counts with it."""

from collections.abc import Sequence

from cloud_train.spec.problems import FieldError

_FIELD = ("data", "validation")


def held_back(samples: int, validation: float, what: str) -> int:
    """How many of the ``samples`` are held out for validation. Raises FieldError if that leaves none to validate or none to train on."""
    count = round(samples * validation)
    if not 0 < count < samples:
        raise FieldError(_FIELD, f"a fraction of {validation} of {samples:,} {what} leaves none for training or none for validation")
    return count


def class_shares(sizes: Sequence[int], validation: float, what: str) -> list[int]:
    """How many samples of each class are held out for validation, for classes with these numbers of samples.

    Each class gives the fraction ``validation``, rounded by the method of the largest remainder, so that all together are the fraction of
    all samples; of equal remainders, that of the earlier class counts. A class of two or more samples then has at least one in each part,
    and a single sample is for training, for which the sum may differ from the fraction (``share_remarks``). Raises FieldError, calling the
    samples ``what``, if either part would be empty.
    """
    held_back(sum(sizes), validation, what)
    divided = [number for number, size in enumerate(sizes) if size > 1]
    if not divided:
        raise FieldError(
            _FIELD,
            f"every class has a single sample, which is for training, so none of the {sum(sizes):,} {what} is left for validation",
            hint="add samples, or put those for validation in a part of their own",
        )
    quotas = {number: sizes[number] * validation for number in divided}
    left = round(sum(sizes[number] for number in divided) * validation) - sum(int(quota) for quota in quotas.values())
    by_remainder = sorted(divided, key=lambda number: (int(quotas[number]) - quotas[number], number))
    rounded_up = set(by_remainder[:left])
    shares = [0] * len(sizes)
    for number, quota in quotas.items():
        shares[number] = min(max(int(quota) + (number in rounded_up), 1), sizes[number] - 1)
    return shares


def held_out(sizes: Sequence[int], validation: float, what: str) -> tuple[int, tuple[str, ...]]:
    """How many samples are held out in all (``class_shares``), and the remarks on that number. Raises FieldError."""
    count = sum(class_shares(sizes, validation, what))
    return count, share_remarks(sum(sizes), count, validation, what)


def share_remarks(samples: int, held_out: int, validation: float, what: str) -> tuple[str, ...]:
    """A sentence if the samples that are held out are not the fraction ``validation``, because each class has some in each part."""
    wanted = held_back(samples, validation, what)
    if held_out == wanted:
        return ()
    why = "every class has at least one" if held_out > wanted else "at least one of every class is for training"
    return (f"{held_out:,} of {samples:,} {what} are held out for validation, not {wanted:,} (data.validation: {validation:g}): {why}",)
