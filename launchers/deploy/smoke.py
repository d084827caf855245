"""Send pictures to an endpoint and compare its answers with those of the same model on this machine."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import names
from launchers.status import Cause, LaunchError

TOLERANCE = 1e-4  # of a probability, between two machines with the same network
_INT8_TOLERANCE = 0.05  # where one of them uses the int8 network and the other one does not
_PICTURES = 3
_LARGEST = 6_291_456  # bytes of a request, SageMaker's own limit


def invoke(
    cloud: Cloud, name: str, content: bytes, *, content_type: str = "application/octet-stream"
) -> dict[str, Any]:
    """Return a deployment's answer to one picture. Raises LaunchError for a refusal, with the server's own words."""
    if len(content) > _LARGEST:
        raise LaunchError(
            f"The file has {len(content):,} bytes, and an endpoint takes at most {_LARGEST:,}.\nTry: a smaller picture",
            Cause.BAD_CONFIG,
        )
    with errors(f"asking the deployment {name}"):
        answer = cloud.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=names.Names(name).endpoint, ContentType=content_type, Accept="application/json", Body=content
        )
        found: dict[str, Any] = json.loads(answer["Body"].read())
    return found


def findings(ask: Callable[[bytes], dict[str, Any]], model: Path) -> Iterator[str]:
    """Yield what is wrong with a deployment's answers to a few pictures.

    ask: returns the answer to one of them, and raises LaunchError. model: the artifact that is served.
    """
    from dogbreed.inference import Predictor

    predictor = Predictor.from_artifact(model)
    for number, picture in enumerate(pictures(), 1):
        try:
            answer = ask(picture)
        except LaunchError as error:
            yield f"It does not answer picture {number}: {error}"
            return
        wanted, seen = predictor.probabilities([picture])[0], answer.get("probabilities") or []
        if len(seen) != len(wanted):
            yield f"It answers with {len(seen)} probabilities, and the model has {len(wanted)} classes."
            return
        same = (answer.get("model") or {}).get("precision") == predictor.about.precision
        off = max(abs(float(here) - float(there)) for here, there in zip(wanted, seen, strict=True))
        if off > (TOLERANCE if same else _INT8_TOLERANCE):
            yield f"Its probabilities for picture {number} differ by {off:.2g} from those of the model on this machine."


def pictures() -> Iterator[bytes]:
    """Yield small pictures with coarse structure, always the same."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for _ in range(_PICTURES):
        blocks = np.kron(rng.integers(256, size=(12, 16, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8))
        buffer = io.BytesIO()
        Image.fromarray(blocks).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()
