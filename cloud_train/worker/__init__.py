"""What runs inside an attempt: the supervisor, the node's place among others, the API for user programs. Never imports torch."""
