"""A table of many runs, and what differs between two: read from the small files of each run, without torch."""
