"""Run the server: `python -m dogbreed.serving MODEL`, or `serve`, the command that SageMaker runs in a container."""

import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dogbreed import artifact
from dogbreed.errors import ArtifactError, DogBreedError
from dogbreed.inference import Predictor
from dogbreed.serving import settings


def serve() -> int:
    """Serve the model that SageMaker has unpacked, on all network interfaces of the container."""
    given = [word for word in sys.argv[1:] if word != "serve"]  # `docker run IMAGE serve` adds it to the entry point
    model = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"), "model")
    return main([str(model), *given], host="0.0.0.0")


def main(arguments: Sequence[str] | None = None, *, host: str = "127.0.0.1") -> int:
    """Serve until a signal arrives; return the exit status: 1 if the model cannot be served, 3 if the port is in use.

    host: the default of --host.
    """
    given = settings.read(arguments, os.environ, host=host)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns about every request that is not valid HTTP
    try:
        if not artifact.is_artifact(given.model):
            raise ArtifactError(
                f"{given.model} is not a valid artifact.\nTry: python -m dogbreed.export <run folder or checkpoint>"
            )
        load = partial(
            Predictor.from_artifact, max_accuracy_loss=given.max_accuracy_loss, several=True, unlike=given.unlike
        )
        predictor = ThreadPoolExecutor(1).submit(load, given.model)
        from dogbreed.serving.server import (
            CannotListenError,
            Server,
        )  # its imports take half as long as loading the model

        server = Server(predictor, given)
        try:
            server.run()
        except CannotListenError as error:
            print(f"error: {error}", file=sys.stderr)
            return 3
        if server.error is not None:
            raise server.error
    except DogBreedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
