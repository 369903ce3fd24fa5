"""The networks, without torch: each one's section of the job file and its layers by arithmetic."""
