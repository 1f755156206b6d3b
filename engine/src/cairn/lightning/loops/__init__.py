"""Where in Lightning's loops a run can be saved, and where a resume continues."""
