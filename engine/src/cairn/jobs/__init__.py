"""Requests to a process from the scheduler and the operating system: signals, time limits, requeues."""
