"""A search over runs: what its trials are, how long each of them trains, and what has become of it. No torch."""
