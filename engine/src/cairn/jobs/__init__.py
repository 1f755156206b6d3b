"""What a scheduler and the operating system ask of a process."""
