"""`hydra/sweeper=halving` and `optuna`: a search whose trials are jobs of the ordinary launchers."""
