"""Which jobs a sweep submits, what they are called, and how each of them ended."""
