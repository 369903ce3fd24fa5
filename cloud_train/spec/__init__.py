"""The parts that all sections of a job file share: field types, problems with their places, facts for the plan, component registries."""
