"""What every test gives back: settings of torch that a command changes for its whole process."""

import pytest
import torch


@pytest.fixture(autouse=True)
def torch_as_it_was():
    """`train.run` lets the smallest numbers be 0; a later test in the same process must not inherit that."""
    yield
    torch.set_flush_denormal(False)
