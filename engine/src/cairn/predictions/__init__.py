"""Predictions in a directory, as parts that are complete or not there, and their reader."""
