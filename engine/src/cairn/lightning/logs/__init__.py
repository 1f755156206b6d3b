"""What a resume keeps of the logs of its run."""
