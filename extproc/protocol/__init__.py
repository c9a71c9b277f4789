"""Envoy's ext_proc v3 protocol as values: events in, actions out.

`codec` alone knows protobuf. May import `errors`, `headers` and `paths`.
"""
