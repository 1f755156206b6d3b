"""Datasets and the DataModules that serve them."""
