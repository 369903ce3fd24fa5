"""The data sets, without torch: each one's section of the job file, what is known of it before a run, and what it has to download."""
