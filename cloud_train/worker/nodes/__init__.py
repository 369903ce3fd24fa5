"""One node's place among the others of an attempt, and what becomes of those."""
