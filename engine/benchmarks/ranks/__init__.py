"""What a save of a DDP training costs each of its ranks: `python -m benchmarks ranks`."""
