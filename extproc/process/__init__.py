"""What one process holds: its runtime, limits, paused runs, the last runs, tallies.

Everything that outlives an exchange. May import `config` and below.
"""
