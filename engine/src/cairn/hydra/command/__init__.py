"""What the words of a command line mean: flags, overrides, `--help`, and what was probably meant instead."""
