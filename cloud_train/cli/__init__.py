"""The command line: ``verbs`` has one module per verb, ``output`` formats what they print.

The verbs decide nothing: they call the client and show what it returns.
"""
