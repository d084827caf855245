"""The folder of everything that the library can recreate. Needs only the standard library."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return DOGBREED_CACHE from the environment, or ~/.cache/dogbreed."""
    return Path(os.environ.get("DOGBREED_CACHE") or "~/.cache/dogbreed").expanduser()
