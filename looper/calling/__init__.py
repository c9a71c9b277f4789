"""Model calls, one and several at once: what is asked, by which client, within which budget, and what came of it."""
