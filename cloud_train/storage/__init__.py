"""Object storage: one small protocol (``base``), and one module per kind of store."""
