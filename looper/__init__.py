"""The loop runtime: a chat request and how a team of models gets it answered. Knows nothing of Envoy."""
