"""The ``aws`` provider: SageMaker training jobs. ``provider`` is what the protocol asks for; the rest is what that is made of."""
