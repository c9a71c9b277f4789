"""Envoy's ext_proc v3 protocol as values: events in, actions out."""
