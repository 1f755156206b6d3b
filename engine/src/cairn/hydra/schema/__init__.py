"""What a configuration may hold, read from the source of the classes that it names: for editors and `cairn check`."""
