"""What a save of a DDP or FSDP2 training costs each of its ranks: `python -m benchmarks ranks`."""
