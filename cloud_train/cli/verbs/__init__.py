"""The verbs of the command line, one a module: each calls the client and shows what it returns."""
