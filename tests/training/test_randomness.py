"""Seeds that are derived."""

from cloud_train.training.randomness import derived_seed


def test_a_derived_seed_depends_on_every_part_of_its_name() -> None:
    seeds = {derived_seed(seed, name, number) for seed in (0, 1) for name in ("order", "split") for number in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "order", 0) == 3955691223199900983  # held: another value would change every resumed run
