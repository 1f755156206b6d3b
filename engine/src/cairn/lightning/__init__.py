"""The adapter to Lightning: the callback, the boundary in its loops, and what its checkpoints leave out."""
