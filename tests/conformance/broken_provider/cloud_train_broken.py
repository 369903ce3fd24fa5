"""A plugin whose import fails, as one does whose own dependency was removed."""

raise ImportError("the SDK of this place is not installed")
