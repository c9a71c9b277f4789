"""Fits a team's weights to recorded outcomes. Needs numpy and scipy, the extra `calibrate`; no request does."""
