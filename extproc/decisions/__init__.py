"""Decisions: from readings to what is done with a request."""
