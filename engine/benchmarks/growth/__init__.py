"""Growth curves: how a cost grows with the number of checkpoints, runs or tensors. One module per subject."""
