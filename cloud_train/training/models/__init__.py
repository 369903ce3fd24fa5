"""The built-in networks. They have the same module names as ``cloud_train.networks``, which computes their layers without torch."""
