"""OpenAI's API as bytes: requests, messages, chunks, streams, and what dialects make of them."""
