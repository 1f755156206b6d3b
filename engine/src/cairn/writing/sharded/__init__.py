"""A checkpoint in several files: each rank's shard holds byte ranges of the storages of one state."""
