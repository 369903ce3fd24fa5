"""How answers look: pure functions from data to text. Nothing here reads a run or writes to a stream, but for the live progress line."""
