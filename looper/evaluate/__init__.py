"""Measuring a configuration on questions whose right answers are known.

Recorded outcomes (`outcomes`), replayed in virtual time (`replay`, `virtual`) and reported; `fitting` fits weights to
them. May import everything in `looper`; no request needs it.
"""
