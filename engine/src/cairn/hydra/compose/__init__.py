"""Which configuration a command has: composed from `configs/`, or from the files of the run that it resumes."""
