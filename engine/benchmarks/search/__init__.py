"""What a search finds for the same training: halving that goes on, halving that restarts, and random search."""
