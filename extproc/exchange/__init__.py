"""One HTTP exchange, from Envoy's first message to our last."""
