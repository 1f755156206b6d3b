"""A save on its way: encode the state, copy it, write and commit it in the background; and load the file."""
