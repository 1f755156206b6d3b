"""What the outside world asks of a run: signals, and the scheduler that has given it its place."""
