"""`python -m cairn`: look after the checkpoints of a run."""

import sys

from cairn.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
