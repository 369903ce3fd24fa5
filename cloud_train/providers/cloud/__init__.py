"""Shared by the three clouds: jobs, machines, request descriptions, observations and doctor findings."""
