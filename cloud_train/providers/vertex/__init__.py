"""The ``gcp`` provider: Vertex AI custom jobs. ``provider`` is what the protocol asks for; the rest is what that is made of."""
