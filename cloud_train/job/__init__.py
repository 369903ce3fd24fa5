"""What was requested: the job file's models, loading with positions, overrides and the JSON Schema."""
