"""Run the server as the image does: with its limits, and with no packages but those of the image.

    python -P inside.py MEMORY_BYTES OPEN_FILES PACKAGE,PACKAGE... ARGUMENTS-OF-SERVE

A process of its own, started by `launchers.deploy.served`.
"""

import resource
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec


class _Packages:
    """Finds nothing itself, and refuses modules of packages that the image does not have."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = {*allowed, *sys.stdlib_module_names}

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if top not in self._allowed:
            raise ModuleNotFoundError(f"The image has no package {top!r}", name=name)
        return None


def main() -> int:
    memory, files, packages = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
    for kind, limit in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_NOFILE, files)):
        most = resource.getrlimit(kind)[1]
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(kind, (limit, limit))
    sys.meta_path.insert(0, _Packages(packages))
    sys.argv = ["serve", *sys.argv[4:]]
    from dogbreed.serving.__main__ import serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
