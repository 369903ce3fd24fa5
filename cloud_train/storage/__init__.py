"""Where bytes live: one small protocol (``base``) and one module a kind of store."""
