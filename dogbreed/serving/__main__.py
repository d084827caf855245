"""`python -m dogbreed.serving MODEL`, and the command `serve` that SageMaker calls its containers with."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dogbreed import artifact
from dogbreed.errors import ArtifactError, DogBreedError
from dogbreed.inference import MAX_ACCURACY_LOSS, Predictor
from dogbreed.serving.intake import Limits


def serve() -> int:
    """`serve`: the model that SageMaker has unpacked, for whoever reaches the container."""
    given = [word for word in sys.argv[1:] if word != "serve"]  # `docker run IMAGE serve` adds it to the entry point
    model = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"), "model")
    port = os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")
    return main([str(model), "--host", "0.0.0.0", "--port", port, *given])


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where the model cannot be served, 3 where the port cannot be had."""
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.serving",
        description="Serve a model over HTTP: a page at /, POST /invocations, the interface at /docs.",
        epilog="example: python -m dogbreed.serving runs/RUN",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a model.tar.gz, the folder of its files, or a run folder"
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines, too (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s; 0 for a free one")
    parser.add_argument(
        "--max-body-bytes", type=int, default=limits.body_bytes, metavar="N", help="of a request (default: %(default)s)"
    )
    parser.add_argument(
        "--deadline-s", type=float, default=limits.deadline_s, metavar="S", help="for an answer (default: %(default)s)"
    )
    parser.add_argument(
        "--max-waiting", type=int, default=limits.waiting, metavar="N", help="requests at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--max-accuracy-loss",
        type=float,
        default=MAX_ACCURACY_LOSS,
        metavar="SHARE",
        help="that an int8 network may have to be used; -1 for none (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    chosen = Limits(body_bytes=options.max_body_bytes, deadline_s=options.deadline_s, waiting=options.max_waiting)
    model = options.model.expanduser()
    try:
        if not artifact.is_artifact(model):
            raise ArtifactError(f"{model} is no artifact.\nTry: python -m dogbreed.export <run folder or checkpoint>")
        load = partial(Predictor.from_artifact, max_accuracy_loss=options.max_accuracy_loss, several=True)
        predictor = ThreadPoolExecutor(1).submit(load, model)
        from dogbreed.serving.server import Server  # its imports take as long as half of the model

        server = Server(predictor, options.host, options.port, chosen)
        server.run()
        if server.error is not None:
            raise server.error
    except DogBreedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
