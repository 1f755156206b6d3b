"""A run directory: its record, its attempts, its status."""
