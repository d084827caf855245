"""`python -m launchers`: what has been run, here and elsewhere."""

import sys

from launchers.cli.verbs import main

if __name__ == "__main__":
    sys.exit(main())
