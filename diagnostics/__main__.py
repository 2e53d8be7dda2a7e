"""`python -m langevin.diagnostics`: the command line where the `langevin` script is not on the path."""

import sys

from .command_line import main

if __name__ == "__main__":
    sys.exit(main())
