"""What the outside world asks of a run: signals."""
