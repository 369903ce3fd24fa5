"""The ``gcp`` provider: Vertex AI custom jobs. ``provider`` implements the protocol; the other modules are its parts."""
