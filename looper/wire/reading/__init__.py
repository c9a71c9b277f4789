"""What backends answer, read so that nothing costs an answer but what is published or counted of it.

First the answer is found, leniently; then each member beside it is read by itself, and what is not understood of it is
noted. May import the rest of `wire`.
"""
