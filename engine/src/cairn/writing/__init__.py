"""A save on its way: encode, copy, write in the background."""
