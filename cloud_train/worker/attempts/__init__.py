"""One attempt at work, from its claim to its end."""
