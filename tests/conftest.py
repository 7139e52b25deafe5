"""What every test gives back: settings of torch that a command changes for its whole process."""

import pytest
import torch


@pytest.fixture(autouse=True)
def torch_as_it_was():
    """`train.run` lets the smallest numbers be 0; a later test in the same process must not inherit that."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread():
    """One thread for a module whose tests compare trained bits: sums are rounded by how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2], ids=["one-thread", "two-threads"])
def threads(request):
    """Each number of threads that a test is run with."""
    torch.set_num_threads(request.param)
    return request.param
