"""Find keys and passwords in files that would be sent, and leave out those that documentation prints as examples."""

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch

from dogbreed import commands

_MAX_SCANNED = 2_000_000  # bytes of one file that are looked at
_SECRETS = {
    "an AWS access key": rb"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])",
    "an AWS secret key": rb"(?i)aws_?secret_?(?:access_?)?key['\"]?\s*[:=]\s*['\"]?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16}",
    "a GitHub token": rb"(?<![A-Za-z0-9_])(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
    "a Hugging Face token": rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{34}(?![A-Za-z0-9])",
    "a Slack token": rb"(?<![A-Za-z0-9])xox[abprs]-[A-Za-z0-9-]{20,}",
    "an OpenAI or Anthropic key": rb"(?<![A-Za-z0-9])sk-(?:ant-|proj-)[A-Za-z0-9_-]{20,}",
    "a W&B key": rb"(?i)wandb_api_key['\"]?\s*[:=]\s*['\"]?[0-9a-f]{40}(?![0-9a-f])",
}
_ANY_SECRET = re.compile(
    b"|".join(b"(?:" + pattern.replace(b"(?i)", b"") + b")" for pattern in _SECRETS.values()), re.I
)
# in lower case: what one of the patterns matches holds one of these, which are found ten times as fast
_WORDS = (
    b"akia", b"asia", b"awssecret", b"aws_secret", b"private key-----", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_",
    b"github_pat_", b"hf_", b"xoxa-", b"xoxb-", b"xoxp-", b"xoxr-", b"xoxs-", b"sk-ant-", b"sk-proj-", b"wandb_api_key",
)  # fmt: skip
_ALLOWED = re.compile(rb"pragma: ?allowlist[ -]secret|gitleaks:allow", re.I)  # as other scanners are told
_EXAMPLES = (  # whole, from https://docs.github.com/en/rest and the like; AWS's own end in EXAMPLE or EXAMPLEKEY
    b"16C7e42F292c6912E7710c838347Ae178B4a",
    b"1B4a2e77838347a7E420ce178F2E7c6912E169246c34E1ccbF66C46812d16D5B1A9Dc86A1498",
    b"xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzzqgy",
)
_FEW = 5  # different characters, at most, of a placeholder such as xxxxxxxx


def found_in(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield the line number and kind of each string that looks like a key, never the string. Skips binary files.

    A line with a comment `pragma: allowlist secret` is skipped, and so are examples of documentation.
    """
    content = content[:_MAX_SCANNED]
    lower = content.lower()
    if b"\0" in content[:8192] or not any(word in lower for word in _WORDS) or not _ANY_SECRET.search(content):
        return
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        for kind, pattern in _SECRETS.items():
            # a private key's first line is harmless without the next one
            text = line if kind != "a private key" else b"".join(lines[number - 1 : number + 1])
            keys = [key[0] for key in re.finditer(pattern, text)]
            if any(not _is_example(key) for key in keys) and not _ALLOWED.search(line):
                yield number, kind


def _is_example(key: bytes) -> bool:
    """Whether a key is one that documentation prints: it says so, is a known one, or repeats a few characters."""
    secret = re.split(rb"[\s:='\"_-]+", key.strip(b"'\" \r\n"))[-1]
    return (
        key.upper().endswith((b"EXAMPLE", b"EXAMPLEKEY")) or key.endswith(_EXAMPLES) or len(set(secret.lower())) <= _FEW
    )


def findings(found: Iterable[tuple[str, int, str]], allowed: Sequence[str], setting: str) -> Iterator[str]:
    """Yield what is wrong with files that would be sent.

    found: (name, line, kind), as CodeBundle holds them. allowed: patterns of names whose findings are no secrets.
    setting: the key that holds them.
    """
    kept = [each for each in found if not any(fnmatch(each[0], pattern) for pattern in allowed)]
    if not kept:
        return
    listed = "\n".join([f"{name}:{line} seems to hold {kind}." for name, line, kind in kept[:20]])
    more = f"\nand {len(kept) - 20} more" if len(kept) > 20 else ""
    names = list(dict.fromkeys(name for name, _, _ in kept))
    patterns = ",".join(map(_quoted, [*allowed, *names[:5]]))
    untrack = commands.shell("git", "rm", "--cached", *names[:5])
    yield (
        f"The code that would be sent contains secrets:\n{listed}{more}\n"
        "Try: an environment variable in place of the key;\n"
        f"or list the file in .gitignore and, if git tracks it: {untrack}\n"
        "or, if it is no secret, end the line with a comment: pragma: allowlist secret\n"
        f"or allow the file: {commands.shell(f'{setting}=[{patterns}]')}"
    )


def _quoted(name: str) -> str:
    return commands.override("", name)[1:]
