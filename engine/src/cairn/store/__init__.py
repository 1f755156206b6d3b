"""Checkpoints during an epoch that resume exactly. `CheckpointEngine.attach(trainer)` is the whole interface."""
