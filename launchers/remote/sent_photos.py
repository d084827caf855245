"""Unpack the photos that were sent to a rented machine.

Uses the standard library alone: launchers/remote/entry.py loads it from the code that was sent.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path


def unpack(channel: Path, root: Path) -> str:
    """Unpack the shards in the manifest's order; the channel is streamed, so that later ones arrive meanwhile.

    Return why the machine cannot train, as `[cause] message`; empty if all photos are there.
    """
    try:
        shards = json.loads((channel / "manifest.json").read_bytes())["shards"]
    except FileNotFoundError:
        return "[bad_config] the photos' manifest.json is missing in S3: submit the run again"
    root.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        try:
            content = (channel / shard["name"]).read_bytes()
        except FileNotFoundError:
            return f"[bad_config] {shard['name']} of the photos is missing in S3: submit the run again"
        if hashlib.sha256(content).hexdigest() != shard["sha256"]:
            return f"[bad_config] {shard['name']} of the photos is damaged in S3: remove it and submit the run again"
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(root, filter="data")
    return ""
