"""What a person types: one module a verb, rendering apart (``cli.render``).

The verbs decide nothing: they ask ``orchestrator`` and show the answer.
"""
