"""One directory of checkpoints: names, manifests, commits, the catalog. Imports no torch."""
