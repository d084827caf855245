"""`python -m dogbreed.predict MODEL PHOTO...`: print the five most probable breeds of each photo."""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from dogbreed.errors import DataError, DogBreedError
from dogbreed.inference import Predictor
from dogbreed.unlike import CHOICES, WARNING


def _at_least_1(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict, and return the exit status: 1 if the model or any photo could not be read; others are predicted."""
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.predict",
        description="Print the most probable breeds of each photo.",
        epilog="example: python -m dogbreed.predict runs/RUN photo.jpg",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a run folder, its model.tar.gz, or a checkpoint such as checkpoints/best.ckpt"
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="a picture file")
    parser.add_argument("--top", type=_at_least_1, default=5, metavar="N", help="how many breeds (default: 5)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per line: photo, unlike_training_photos, predictions",
    )
    parser.add_argument(
        "--unlike",
        choices=CHOICES,
        default="auto",
        help="whether to say if a photo is unlike the training photos; auto: if that is reliable with this model",
    )
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may contain bytes that are not UTF-8
    try:
        predictor = Predictor.load(options.model, unlike=options.unlike)
    except DogBreedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = False
    for photo in options.photos:
        try:
            ranked, unlike = predictor.judged(photo, top=options.top)
        except DataError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        if options.json:
            found = [{**asdict(each), "probability": round(each.probability, 6)} for each in ranked]
            print(json.dumps({"photo": photo, "unlike_training_photos": unlike, "predictions": found}))
            continue
        print(photo)
        if unlike:
            print(f"  {WARNING}")
        width = max(len(prediction.breed) for prediction in ranked)
        for prediction in ranked:
            bar = "█" * round(30 * prediction.probability)
            print(f"  {prediction.breed:<{width}}  {prediction.probability:6.1%}  {bar}".rstrip())
    if (why := predictor.about.unlike) != "on" and options.unlike != "off":
        print(f"Not judged whether photos are unlike the training photos: {why.removeprefix('off: ')}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
