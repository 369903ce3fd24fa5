"""The samples of the data sets, for training and for validation."""
