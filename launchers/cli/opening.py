"""`python -m launchers open`: an address on this machine at which a browser or curl reaches a deployment."""

import argparse
import json

from launchers.cli import named

HELP = "Let a browser or curl reach a deployment that takes only signed requests."
EPILOG = """\
A function URL takes requests that are signed with your credentials, which
browsers and curl do not do. This listens on this machine alone, signs what
comes, and passes it on, until Ctrl-C.

  python -m launchers open dogs
  curl --data-binary @PHOTO.jpg http://127.0.0.1:8765/
"""
PORT = 8765


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N", help=f"of this machine; 0: any that is free (default: {PORT})"
    )


def run(args: argparse.Namespace) -> int:
    from launchers.deploy.signing import SigningProxy, signer

    launcher, handle = named.deployment(args.run, args)
    proxy = SigningProxy(launcher.url(handle), signer(launcher.cloud), args.port)  # type: ignore[attr-defined]
    if args.json:
        print(json.dumps({"handle": str(handle), "address": proxy.address, "url": proxy.url}), flush=True)
    else:
        print(f"{handle.run_id} answers at {proxy.address} until Ctrl-C; each request is signed as yours.", flush=True)
    try:
        proxy.serve()
    except KeyboardInterrupt:
        print(end="" if args.json else "\n")
    return 0
