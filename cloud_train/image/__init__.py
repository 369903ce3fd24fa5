"""The room of the container: from a folder of code to an image that is named by digest, in a local engine or in a registry.

An image is a base with two layers on top, the worker's and the code's. Both are made reproducibly (``layers``), and so is the image's
configuration (``config``), so the same inputs are the same image on every machine. ``building`` is the way in.
"""
