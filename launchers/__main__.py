"""`python -m launchers`: list, follow and stop runs, on this machine and in a cloud."""

import sys

from launchers.cli.verbs import main

if __name__ == "__main__":
    sys.exit(main())
