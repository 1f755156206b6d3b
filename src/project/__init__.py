"""Your data and models."""
