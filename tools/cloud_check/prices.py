"""Prices of machines, from ``prices.yaml``: few are known, each with its source and date."""

import datetime
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from ruamel.yaml import YAML

FILE = Path(__file__).with_name("prices.yaml")


class Price(BaseModel):
    """What a machine costs on demand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cloud: str
    region: str
    machine: str
    usd_per_hour: float = Field(gt=0)
    source: str = Field(min_length=4)
    date: datetime.date


@cache
def prices(file: Path = FILE) -> tuple[Price, ...]:
    """All known prices."""
    read = YAML(typ="safe", pure=True)
    return tuple(TypeAdapter(list[Price]).validate_python(read.load(file.read_text(encoding="utf-8"))))


def price_of(cloud: str, region: str | None, machine: str | None) -> Price | None:
    """The price of a machine in a region; None if it is unknown."""
    return next((each for each in prices() if (each.cloud, each.region, each.machine) == (cloud, region, machine)), None)
