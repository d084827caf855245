"""Hydra overrides as text: their keys, their quoting, and which of them stay on this machine."""

import re

ABOUT_THIS_COMMAND = frozenset({"resume", "run_id", "dry_run", "debug"})  # keys that say nothing about the run itself
STAYS_HERE = ABOUT_THIS_COMMAND | {"launcher", "aws", "hpo", "hydra"}  # about machines: a resumed run may change them


def override(key: str, value: str) -> str:
    """`key=value` as Hydra reads it, whatever characters `value` has."""
    if re.fullmatch(r"[\w./@:+%-]+", value, re.ASCII):
        return f"{key}={value}"
    # Inside quotes Hydra wants a backslash before each quote, and doubled ones only where they stand before a quote.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"{key}='{escaped}'"


def key_path(key: str) -> list[str]:
    """`a.b[c]` as a, b, c: Hydra's two ways to write a key."""
    return re.findall(r"[^.\[\]]+", key)


def unquoted(value: str) -> str:
    """The text that Hydra would read: inside quotes, backslashes count only before a quote."""
    quote = value[:1]
    if len(value) < 2 or quote not in ("'", '"') or value[-1] != quote:
        return value
    return re.sub(rf"(\\+)(?={quote}|\Z)", lambda found: found[1][: len(found[1]) // 2], value[1:-1])


def root_key(text: str) -> str:
    return re.split(r"[.=@/]", text.lstrip("+~"), maxsplit=1)[0]


def override_key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]
