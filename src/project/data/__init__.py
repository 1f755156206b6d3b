"""The data of the examples: digits and text."""
