"""The command line: ``verbs`` has one module per verb, ``output`` formats what they print.

The verbs make no decisions: they call the client and show the result.
"""
