"""`python -m dogbreed.features list|verify|prune`: manage the features that are cached on disk."""

import argparse
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dogbreed.errors import CacheError, DogBreedError
from dogbreed.features import maintenance
from dogbreed.features.store import FeatureStore, stores_folder
from dogbreed.run_folder import storage_error

_DAY_S = 86_400.0
_GB = 1e9


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 after an error (printed to stderr) or if `verify` leaves damage."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.action(options)
        sys.stdout.flush()
        return status
    except DogBreedError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader closed the pipe, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.features",
        description=(
            "Manage the features that runs have cached. A store holds the features of photos from one frozen network, "
            "computed in one way. Everything in it can be deleted: a run recomputes what is missing."
        ),
        epilog=(
            "The stores are in the folder DOGBREED_FEATURES, or else in features/ of the folder DOGBREED_CACHE "
            "(default: ~/.cache/dogbreed)."
        ),
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser("list", help="List all stores.", description="List all stores, last used first.")
    command.set_defaults(action=_list)

    command = commands.add_parser(
        "verify",
        help="Read all rows and verify their checksums.",
        description="Read all rows and verify their checksums. The exit status is 1 if damage remains.",
    )
    command.add_argument("names", nargs="*", metavar="NAME", help="a store's name or its prefix (default: all)")
    command.add_argument("--repair", action="store_true", help="remove damaged shards; runs recompute them")
    command.set_defaults(action=_verify)

    command = commands.add_parser(
        "prune",
        help="Remove what is no longer needed.",
        description=(
            "Show what would be removed: leftovers of interrupted runs, and the stores that the options select. "
            "With --apply, remove it. A store that a live process uses is kept."
        ),
        epilog="example: python -m dogbreed.features prune --unused-for 30 --max-gb 20 --apply",
    )
    command.add_argument("--unused-for", type=_number, metavar="DAYS", help="remove stores unused for this long")
    command.add_argument("--max-gb", type=_number, metavar="N", help="remove the least recently used above N GB in all")
    command.add_argument("--all", action="store_true", help="all stores")
    command.add_argument("--apply", action="store_true", help="remove, instead of only showing")
    command.set_defaults(action=_prune)
    return parser


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return number


# --- list ---


def _list(options: argparse.Namespace) -> int:
    paths = sorted(maintenance.store_paths(), key=maintenance.last_used, reverse=True)
    now, total = time.time(), 0
    for path in paths:
        size = maintenance.folder_bytes(path)
        total += size
        print(path.name)
        for line in _described(path, size, now):
            print(textwrap.fill(line, _width(), initial_indent="    ", subsequent_indent="      "))
    print(f"{_count(len(paths), 'store')}, {_size(total)}, in {stores_folder()}" if paths else _none())
    return 0


def _described(path: Path, size: int, now: float) -> Iterator[str]:
    used = "in use now" if maintenance.in_use(path) else f"last used {_ago(now - maintenance.last_used(path))}"
    try:
        store = FeatureStore.at(path)
    except CacheError as error:
        yield f"damaged, {_size(size)}, {used}"
        yield str(error).partition("\n")[0]
        return
    shards = list(store.inspect())
    keys = {row for _, rows, _ in shards for row in rows}
    photos, views = (_count(len({key[n] for key in keys}), word) for n, word in enumerate(("photo", "view")))
    yield f"{_count(len(keys), 'row')} ({photos}, {views}), {_size(size)}, {used}"
    fields = store.recipe.fields
    if fields.get("prints"):
        yield f"not features, but prints of {fields['image_px']} px center crops: runs find copies of photos by them"
    else:
        values = [str(fields[name]) for name in ("backbone", "engine", "precision") if fields.get(name)]
        shape = " x ".join(map(str, store.recipe.shape))
        yield ", ".join([*values, f"{shape} {store.recipe.dtype} a row"])
    if damaged := sum(bool(damage) for *_, damage in shards):
        yield f"{_count(damaged, 'damaged shard')}: see python -m dogbreed.features verify"


# --- verify ---


def _verify(options: argparse.Namespace) -> int:
    paths = _named(options.names)
    if not paths:
        print(_none())
    left = [path for path in paths if not _is_good_now(path, options.repair)]
    if left and not options.repair:
        print("Damaged shards remain. Try: python -m dogbreed.features verify --repair")
    return int(bool(left))


def _is_good_now(path: Path, repair: bool) -> bool:
    """Verify one store, and return whether it is free of damage, with `repair` after removing what was damaged."""
    try:
        store = FeatureStore.at(path)
    except CacheError as error:
        print(f"{path.name}: damaged\n    {str(error).partition(chr(10))[0]}")
        if repair and maintenance.remove(path):
            print("    removed: the whole store")
            return True
        if repair:
            print("    not removed: a live process uses it")
        return False
    shards = list(store.inspect(numbers=True))
    damaged = [(name, damage) for name, _, damage in shards if damage]
    if not damaged:
        print(f"{path.name}: {_count(len(shards), 'shard')}, good", flush=True)
        return True
    print(f"{path.name}: {len(damaged):,} of {_count(len(shards), 'shard')} damaged{' and removed' if repair else ''}")
    for name, damage in damaged:
        if repair:
            store.discard(name)
        print(f"    {name}: {damage}", flush=True)
    return repair


def _named(names: Sequence[str]) -> list[Path]:
    there = maintenance.store_paths()
    chosen: set[Path] = set()
    for name in names:
        if not (fitting := [path for path in there if path.name == name or path.name.startswith(name)]):
            raise CacheError(
                f"No store in {stores_folder()} has a name starting with {name}.\nTry: python -m dogbreed.features list"
            )
        chosen.update(fitting)
    return sorted(chosen) if names else there


# --- prune ---


@dataclass(frozen=True)
class _Removal:
    path: Path
    size: int
    text: str
    of: str  # "store", "leftovers" or "rest"


def _prune(options: argparse.Namespace) -> int:
    removals, kept = _plan(options, time.time())
    width = max((len(_size(removal.size)) for removal in removals), default=0)
    freed = 0
    for removal in removals:
        if options.apply and not _remove(removal):
            kept.append(f"{removal.path.name}: a process has just started using it")
            continue
        freed += removal.size
        indent = " " * (width + 4)
        line = f"  {_size(removal.size):>{width}}  {removal.text}"
        print(textwrap.fill(line, _width(), subsequent_indent=indent, break_on_hyphens=False))
    for line in kept:
        print(textwrap.fill(f"  kept: {line}", _width(), subsequent_indent="        ", break_on_hyphens=False))
    if not removals:
        print("Nothing to remove.")
        if not (options.all or options.unused_for is not None or options.max_gb is not None):
            print("Try: --unused-for DAYS, --max-gb N or --all, to select stores to remove")
    elif options.apply:
        print(f"Removed: {_size(freed)}.")
    else:
        print(f"Nothing has been removed. Add --apply to remove these: {_size(freed)}.")
    return 0


def _plan(options: argparse.Namespace, now: float) -> tuple[list[_Removal], list[str]]:
    """Return what to remove, the least recently used first, and which of the selected stores are kept, and why."""
    paths = sorted(maintenance.store_paths(), key=maintenance.last_used)
    sizes = {path: maintenance.folder_bytes(path) for path in paths}
    total = sum(sizes.values())
    removals, kept = [], []
    for path in paths:
        unused_s = now - maintenance.last_used(path)
        long_unused = options.unused_for is not None and unused_s >= options.unused_for * _DAY_S
        too_much = options.max_gb is not None and total > options.max_gb * _GB
        goes = options.all or long_unused or too_much
        if maintenance.in_use(path):
            if goes:
                kept.append(f"{path.name}, {_size(sizes[path])}: a live process uses it")
        elif goes:
            removals.append(_Removal(path, sizes[path], f"{path.name}, last used {_ago(unused_s)}", "store"))
            total -= sizes[path]
        elif files := maintenance.leftovers(path):
            size = sum(file.lstat().st_size for file in files if file.exists())
            removals.append(_Removal(path, size, f"{_count(len(files), 'leftover file')} in {path.name}", "leftovers"))
    for path in maintenance.half_removed():
        text = f"{path.name}, whose removal was interrupted"
        removals.append(_Removal(path, maintenance.folder_bytes(path), text, "rest"))
    return removals, kept


def _remove(removal: _Removal) -> bool:
    if removal.of == "store":
        return maintenance.remove(removal.path)
    if removal.of == "leftovers":
        return maintenance.remove_leftovers(removal.path)
    try:
        shutil.rmtree(removal.path)
    except FileNotFoundError:  # another process is removing it
        pass
    except OSError as error:
        raise storage_error(removal.path, error) from error
    return True


# --- words ---


def _none() -> str:
    return f"No features are cached in {stores_folder()}"


def _width() -> int:
    return min(100, shutil.get_terminal_size((80, 24)).columns)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _ago(seconds: float) -> str:
    for unit, length_s in (("day", _DAY_S), ("hour", 3600), ("minute", 60)):
        if seconds >= length_s:
            return f"{_count(int(seconds / length_s), unit)} ago"
    return "just now"


if __name__ == "__main__":
    sys.exit(main())
