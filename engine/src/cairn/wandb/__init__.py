"""Weights & Biases: metrics, artifacts of checkpoints, and which run is which."""
