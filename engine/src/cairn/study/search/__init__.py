"""The report of a search: a sweep whose trials are stopped at rungs, or all trained to the end."""
