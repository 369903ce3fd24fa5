"""The ``azure`` provider: Azure ML command jobs. ``provider`` implements the protocol; the other modules are its parts."""
