"""What a person types: one module a verb, rendering apart (``cli.output``).

The verbs decide nothing: they ask ``orchestrator`` and show the answer.
"""
