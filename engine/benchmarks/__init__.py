"""What a save costs the training, measured side by side: `make bench`, or `python -m benchmarks --help`."""
