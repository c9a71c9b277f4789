"""What one process holds: its runtime, limits, paused runs, the last runs, tallies."""
