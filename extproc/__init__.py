"""The Envoy side of envoy-looper: an external processor that reads, decides, and routes or loops."""

__version__ = "0.1.0"
