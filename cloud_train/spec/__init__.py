"""What every section of a job file is made of: field types, problems with their places, facts for the plan, registries of components."""
