"""OpenAI's API as bytes: requests, messages, chunks, streams, and what dialects make of them.

Pure functions and values; nothing here waits for anybody. May import `contract`, `errors` and `settings`. What a
client or a backend may send is read here, and nowhere else; a dialect is a row of `dialects.py`.
"""
