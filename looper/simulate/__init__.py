"""Simulated backends, which behave and misbehave as real ones do."""
