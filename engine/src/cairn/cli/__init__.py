"""The command `cairn`: one file per command. Each collects facts and prints them as a table or as JSON."""
