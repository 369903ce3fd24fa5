"""The built-in networks. Module names are those of ``cloud_train.networks``, which counts their parameters without torch."""
