"""What the user configures, and which of it a resume or a new run keeps."""
