"""Growth curves: how a cost grows with the number of checkpoints, runs or tensors. A module per subject, see `curve`."""
