"""Measuring a configuration on questions whose right answers are known."""
