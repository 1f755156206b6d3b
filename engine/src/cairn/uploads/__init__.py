"""What uploads to W&B and to a mirror share: bytes that wait, errors logged once, and the thread that is woken."""
