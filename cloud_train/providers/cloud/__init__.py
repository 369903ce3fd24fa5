"""What the three clouds share: jobs, machines, request descriptions, observations and doctor findings."""
