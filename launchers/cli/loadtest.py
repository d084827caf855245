"""`python -m launchers loadtest`: send photos to a server that is yours, and time its answers."""

import argparse
import ipaddress
import json
import math
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from dogbreed import commands, load
from dogbreed.commands import shown_path
from dogbreed.errors import ConfigError, raise_findings
from launchers.capacity.measured import Measured, refused
from launchers.cli import named
from launchers.status import Cause, LaunchError

if TYPE_CHECKING:
    from launchers.deploy.launcher import DeployLauncher

HELP = "Send photos to a server or a deployment of yours, and time its answers."
EPILOG = """\
With --clients each of them waits for its answer before it asks again; with
--rps requests come at random times, and are timed from when they were due. The
file that --output writes is what `capacity --measured` plans with.

  python -m launchers loadtest http://127.0.0.1:8080/invocations
  python -m launchers loadtest dogs --rps 5 --seconds 60 --output dogs.json
"""
MOST_REQUESTS, MOST_S, MOST_CLIENTS = 100_000, 3600.0, load.MOST_AT_ONCE
_FUNCTION_URL = re.compile(r"[a-z0-9]+\.lambda-url\.(?P<region>[a-z0-9-]+)\.on\.aws(\.cn)?")
_MINE = "--yes-this-is-mine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("target", metavar="URL|NAME", help="where photos are sent with POST, or the name of a deployment")
    loop = parser.add_mutually_exclusive_group()
    loop.add_argument("--clients", type=int, metavar="N", help="ask at once, each in turn (default: 1)")
    loop.add_argument("--rps", type=float, metavar="N", help="requests per second, at random times")
    add("--requests", type=int, default=200, metavar="N", help=f"at most (default: 200; up to {MOST_REQUESTS:,})")
    add("--seconds", type=float, default=30.0, metavar="S", help=f"at most (default: 30; up to {MOST_S:g})")
    add("--timeout-s", type=float, default=load.TIMEOUT_S, metavar="S", help="of each request (default: 60)")
    add("--photo", type=Path, action="append", metavar="FILE", help="to send, again for more (default: drawn ones)")
    add("--output", type=Path, metavar="FILE", help="write what was measured as JSON")
    add("--seed", type=int, default=0, metavar="N", help="of the random times (default: 0)")
    add(_MINE, action="store_true", dest="mine", help="needed for what does not run on this machine")


def run(args: argparse.Namespace) -> int:
    clients = 1 if args.clients is None and args.rps is None else args.clients or 0
    _check(args, clients)
    pictures = _pictures(args.photo)
    target = _target(args)
    _refuse_others(target.url, args.mine)
    _answers(target, pictures[0], "" if _is_url(args.target) else args.target)
    if args.rps is None:
        sent = load.closed_loop(target, pictures, clients, args.requests, args.seconds)
    else:
        sent = load.open_loop(target, pictures, load.arrivals(args.rps, args.requests, args.seconds, args.seed))
    found = Measured(target.url, sent, clients, args.rps or 0.0)
    if args.output:
        found.save(args.output)
    print(json.dumps(found.facts(), indent=2) if args.json else "\n".join(_shown(found, args.output)))
    return 0 if found.answered else 1


def _check(args: argparse.Namespace, clients: int) -> None:
    found = []
    if args.rps is None and not 1 <= clients <= MOST_CLIENTS:
        found.append(f"--clients must be from 1 to {MOST_CLIENTS}, got {clients}.\nTry: --clients 4")
    if args.rps is not None and not 0 < args.rps <= MOST_REQUESTS:
        found.append(f"--rps must be above 0 and at most {MOST_REQUESTS:,}, got {args.rps:g}.\nTry: --rps 5")
    if not 1 <= args.requests <= MOST_REQUESTS:
        found.append(f"--requests must be from 1 to {MOST_REQUESTS:,}, got {args.requests}.\nTry: --requests 200")
    if not 0 < args.seconds <= MOST_S:
        found.append(f"--seconds must be above 0 and at most {MOST_S:g}, got {args.seconds:g}.\nTry: --seconds 30")
    if not 0 < args.timeout_s <= MOST_S:
        found.append(f"--timeout-s must be above 0 and at most {MOST_S:g}, got {args.timeout_s:g}.")
    if not found and args.rps is not None and not load.arrivals(args.rps, args.requests, args.seconds, args.seed):
        least = math.ceil(4 / args.rps)
        found.append(f"No request falls into {args.seconds:g} s at {args.rps:g} a second.\nTry: --seconds {least}")
    if args.output is not None and args.output.is_dir():
        found.append(f"--output {shown_path(args.output)} is a folder.\nTry: --output {args.output / 'load.json'}")
    raise_findings(ConfigError, found)


def _pictures(paths: list[Path] | None) -> list[bytes]:
    if not paths:
        from launchers.deploy import smoke

        return list(smoke.pictures())
    found = []
    for path in paths:
        try:
            found.append(path.expanduser().read_bytes())
        except OSError as error:
            raise LaunchError(f"{path} cannot be read: {error.strerror}", Cause.BAD_CONFIG) from error
    return found


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _target(args: argparse.Namespace) -> load.Target:
    if not _is_url(args.target):
        if "://" in args.target and not args.target.startswith("deploy://"):
            raise ConfigError(
                f"{args.target} is neither an http(s) address nor a deployment.\nTry: http://127.0.0.1:8080/invocations"
            )
        launcher, handle = named.deployment(args.target, args)
        url, sign = cast("DeployLauncher", launcher).entrance(handle)
        return load.Target(url, sign, args.timeout_s)
    parts = urlsplit(args.target)
    try:
        named_host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{args.target} is not a URL: {error}\nTry: http://127.0.0.1:8080/invocations") from error
    if not named_host or parts.username is not None:
        reason = "names no host" if not named_host else "has a user's name in it, which is not sent"
        raise ConfigError(f"{args.target} {reason}.\nTry: http://127.0.0.1:8080/invocations")
    found = _FUNCTION_URL.fullmatch(named_host)
    if found is None:
        return load.Target(args.target, None, args.timeout_s)
    from launchers.deploy.signing import signer
    from launchers.registry import cloud_of

    return load.Target(args.target, signer(cloud_of(found["region"])), args.timeout_s)


def _refuse_others(url: str, mine: bool) -> None:
    host = urlsplit(url).hostname or ""
    if mine or _is_here(host):
        return
    raise LaunchError(
        f"{host} is not this machine. Load on a server of somebody else is an attack, and in a cloud it costs you "
        f"money.\nTry: the same command with {_MINE}, if it is yours",
        Cause.BAD_CONFIG,
    )


def _is_here(host: str) -> bool:
    """Return whether a host is this machine by its name: nothing is looked up, which could change afterwards."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _answers(target: load.Target, picture: bytes, name: str) -> None:
    """Ask once, which is not counted: a server may be slower at first. Raises LaunchError if it does not answer.

    name: of the deployment, if it was named.
    """
    first = load.first_answer(target, picture)
    if first.status == 0:
        hint = _hint_of_a_deployment(0, name)
        if target.sign is None:
            hint = f"start it first, as with {commands.module('dogbreed.serving', 'MODEL')}"
        raise LaunchError(f"{target.url} does not answer: {first.words}\nTry: {hint}", Cause.BAD_CONFIG)
    if not 200 <= first.status < 300 and not refused(first):
        hints = {
            403: "the name of your deployment in place of its URL: its requests are signed",
            404: f"another path, such as {target.url.rstrip('/')}/invocations",
            405: f"another path, such as {target.url.rstrip('/')}/invocations",
        }
        hint = hints.get(first.status, "--photo FILE, with a photo that it takes")
        if target.sign is not None:
            hint = _hint_of_a_deployment(first.status, name)
        raise LaunchError(
            f"{target.url} answers {first.status}: {' '.join(first.words.split())}\nTry: {hint}", Cause.BAD_CONFIG
        )


def _hint_of_a_deployment(status: int, name: str) -> str:
    """name: empty if its URL was typed."""
    if status == 403:
        return f"{commands.launchers('iam')}, which shows what you must be allowed"
    return commands.launchers("status", name) if name else commands.launchers("list")


# --- what is printed ---


def _shown(found: Measured, output: Path | None) -> list[str]:
    sent, answered = found.load.requests, found.answered
    clients = "one client" if found.clients == 1 else f"{found.clients} clients"
    loop = f"of {clients}" if found.clients else f"at random times, {found.rps:g} a second"
    others = ", ".join(f"{count} with {status or 'no answer'}" for status, count in _others(found))
    rate = len(answered) / found.load.seconds
    apart = f"; {others}: {found.refused_share:.2%} refused" if others else ""
    lines = [
        *_field("Sent", f"{len(sent)} requests {loop}, in {found.load.seconds:.1f} s, to {found.url}"),
        *_field("Answered", f"{len(answered)}, {rate:.3g} a second{apart}"),
    ]
    if not answered:
        words = next((one.answer.words for one in sent if one.answer.words), "")
        return [*lines, *_field("Answer", " ".join(words.split()) or "none")]
    if lost := next((one.answer.words for one in sent if not one.answer.status), ""):
        lines += _field("No answer", " ".join(lost.split()))
    p50, p95, p99 = (f"{1000 * found.percentile_s(percent):,.0f}" for percent in (50, 95, 99))
    since = "" if found.clients else ", from when each was due"
    times, source = found.service_s
    lines += _field("Latency", f"p50 {p50}, p95 {p95}, p99 {p99} ms{since}")
    lines += _field("Service", f"{1000 * sum(times) / len(times):,.0f} ms on average: {source}")
    lines += _field("Generator", _pace(found))
    if output is not None:
        again = commands.launchers("capacity", "--rps", f"{found.rps or rate:.3g}", "--measured", shown_path(output))
        lines += [f"{'Saved':<12}{shown_path(output)}", f"{'Next':<12}{again}"]
    return lines


def _others(found: Measured) -> list[tuple[int, int]]:
    return [(status, count) for status, count in found.statuses.items() if not 200 <= status < 300]


def _pace(found: Measured) -> str:
    used = f"it used {found.load.cpu:.0%} of a core"
    late = "" if found.clients else f"1 % of the requests were sent more than {1000 * found.late_s:.3g} ms late; "
    if found.kept_pace:
        return f"kept the pace; {late}{used}"
    return f"could not keep the pace, so these times are too long; {late}{used}"


def _field(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, 80, initial_indent=f"{name:<12}", subsequent_indent=" " * 12, break_on_hyphens=False)
