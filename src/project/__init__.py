"""Your project: data in `data/`, models in `models/`."""
