"""What a start of a run does, from its decision to resume until its exit code."""
