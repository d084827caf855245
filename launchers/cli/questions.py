"""Ask a person before something that cannot be undone."""

import sys


def can_ask() -> bool:
    return sys.stdin.isatty()


def agreed(question: str) -> bool:
    """Ask on the terminal; anything but yes is no."""
    try:
        answer = input(f"{question}? [y/N] ")
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ("y", "yes")
