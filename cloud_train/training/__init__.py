"""The built-in trainers: data, models, the loop, checkpoints, prediction. The only room that imports torch.

Every random choice is derived from the job's seed and from where it is made (``randomness``), never from the state of a generator, so a run
that is killed and resumed takes the same steps as one that was not. What must be saved is then small: weights, optimizer state, the step.
"""
