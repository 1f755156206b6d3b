"""What saving costs a run, and how far the run is."""
