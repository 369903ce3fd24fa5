"""The output of the verbs: formatting data as text, and writing it to the standard streams."""
