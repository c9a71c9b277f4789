"""One HTTP exchange, from Envoy's first message to our last.

`exchange` tells the story; it names what the others do. Takes a channel and knows no transport. May import `process`
and below.
"""
