"""One directory of checkpoints: file names, manifests, commits, retention, verification. Imports no torch."""
