"""The command `cairn`: one file per command. Each collects facts and shows these as a table or as JSON."""
