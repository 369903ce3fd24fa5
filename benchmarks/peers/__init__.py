"""The classic CNN in other frameworks, for classic_cnn.py: scripts that need their framework and nothing else."""
