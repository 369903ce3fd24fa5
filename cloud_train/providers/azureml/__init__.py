"""The ``azure`` provider: Azure ML command jobs. ``provider`` is what the protocol asks for; the rest is what that is made of."""
