"""Find, list and report photos that are in the data set more than once."""

import logging
from collections.abc import Mapping
from typing import Any

from dogbreed import copies
from dogbreed.copies import Copies
from dogbreed.data import DogBreedData
from dogbreed.distributed import collectives
from dogbreed.errors import DataError, raise_findings
from dogbreed.features import compared
from dogbreed.run_folder import RunFolder, write_text

log = logging.getLogger("dogbreed")


def record(here: RunFolder, data: DogBreedData, model: Mapping[str, Any], *, on_features: bool) -> Copies:
    """Write copies.csv and warn of what it lists; without copies there is no such file.

    Photos that show the same count as well as equal files, if this run or an earlier one has computed their features.
    model: its settings. Raises DataError if too many photos are in two classes, nearly equal ones not counted.
    """
    photos = data.photos
    alike = collectives.broadcast(lambda: compared.alike(photos, model, on_features=on_features))
    found = copies.find(photos, alike) if alike else data.copies
    certain = copies.find(photos, [pair for pair in alike if pair[-1] != copies.NEAR]) if alike else data.copies
    write(here, found)
    for line in found.warnings(photos, certain, here.copies):
        log.warning("%s", line)
    raise_findings(DataError, data.conflicts(certain))
    return found


def write(here: RunFolder, found: Copies) -> None:
    """Write copies.csv, or remove it if there are no copies."""
    if found.photos:
        write_text(here.copies, found.to_csv())
    else:
        here.copies.unlink(missing_ok=True)


def recorded(here: RunFolder, data: DogBreedData) -> Copies:
    """Return the copies that training found; those by bytes for a run of an earlier version."""
    if not here.copies.exists():
        write(here, data.copies)
        return data.copies
    return Copies.from_csv(here.copies)
