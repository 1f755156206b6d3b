"""What a checkpoint holds that Lightning leaves out, and how a resume puts it back."""
