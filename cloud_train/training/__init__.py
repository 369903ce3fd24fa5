"""The built-in trainers: data, models, the loop, checkpoints, prediction. The only package that imports torch.

Every random choice is derived from the job's seed and the choice's name (``randomness``), never from the state of a generator, so a run
that is killed and resumed takes the same steps as one that was not. Little has to be saved: weights, optimizer state, the step.
"""
