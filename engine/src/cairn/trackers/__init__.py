"""What the rooms for W&B, MLflow and Trackio share: rows that go to a tracker once, and checkpoints as artifacts."""
