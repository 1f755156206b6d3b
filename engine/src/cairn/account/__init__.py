"""What saving costs a run, how far the run is, and whether it survives failed saves."""
