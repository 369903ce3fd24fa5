"""The verbs of the command line, one per module: each calls the client and shows what it returns."""
