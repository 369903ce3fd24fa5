"""The data sets, without torch: each one's section of the job file, what is known about it before a run, and what it downloads."""
