"""The command `cairn`: look after runs and their checkpoints."""
