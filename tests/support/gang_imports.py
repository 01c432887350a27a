"""What a policy rank imports, loaded in the process from which the ranks of tests/support/gang.py are forked."""

import torch

from actors.policy import (
    learner,  # noqa: F401
    zero,
)

zero._import_deepspeed(torch.device("cpu"))
