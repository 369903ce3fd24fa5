"""The room of the container: from a folder of code to an image that is named by digest, in a local engine or in a registry.

An image is a base with the worker's layer and the code's layers (``splitting``) on top. They are made reproducibly (``layers``), and so is
the image's configuration (``config``), so the same inputs are the same image on every machine. ``building`` is the way in.
"""
