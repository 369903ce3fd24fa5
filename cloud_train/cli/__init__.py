"""What a person types: ``verbs`` has one module a verb, ``output`` what they print.

The verbs decide nothing: they call the client and show what it returns.
"""
