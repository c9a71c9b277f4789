"""HTTP/2 and gRPC as Envoy speaks them to a processor: nothing else of either, on asyncio, bounded everywhere."""
