"""The classic CNN in other frameworks, for classic_cnn.py: scripts that need only their framework."""
