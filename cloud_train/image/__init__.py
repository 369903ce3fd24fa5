"""Container images: from a folder of code to an image with a digest, in a local engine or in a registry.

An image is a base with the worker's layer and the code's layers (``splitting``) on top. Layers (``layers``) and configuration (``config``)
are reproducible, so the same inputs give the same image on every machine. ``building`` is the entry point.
"""
