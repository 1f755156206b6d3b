"""The report of a run or a sweep: what it reads, chooses, says and draws."""
