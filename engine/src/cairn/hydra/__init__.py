"""The Hydra entry point: from a command line to a finished run."""
