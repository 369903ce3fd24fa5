"""The ``aws`` provider: SageMaker training jobs. ``provider`` implements the protocol; the other modules are its parts."""
