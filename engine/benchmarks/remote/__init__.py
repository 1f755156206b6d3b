"""What a mirror costs, and how fast it is: uploads, training, and restarts from an empty disk, side by side."""
