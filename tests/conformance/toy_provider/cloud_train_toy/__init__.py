"""A provider plugin in small, in three modules: ``provider``, the ``spooler`` that is its place to run, and the ``place`` for its tests."""
