"""The learning rate from step to step: it follows from the job and the step's number alone, so there is no state to save."""

import math

from cloud_train.job.models import TrainSpec


def learning_rate(train: TrainSpec, step: int, last_step: int) -> float:
    """The learning rate of the step after ``step`` steps of ``last_step``.

    ``cosine`` is half a cosine wave from the job's rate down to 0 (Loshchilov and Hutter, 2017, without restarts).
    """
    if train.schedule == "constant":
        return train.optimizer.lr
    return train.optimizer.lr * (1 + math.cos(math.pi * step / last_step)) / 2
