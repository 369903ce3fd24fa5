"""The samples of the data sets: what is trained on and what is validated on."""
