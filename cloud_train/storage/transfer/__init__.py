"""Transfers between local files and a store: ``uploading`` and ``downloading`` for files, ``folders`` for whole folders."""
