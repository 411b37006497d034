"""The contract of every growth, with the model on a device."""

import pytest
import torch

from tests.contracts import test_growth as contract
from tests.contracts.growths import GROWTHS
from tests.cuda.placing import cases, placed

EVERY = list(GROWTHS)
rows = pytest.mark.parametrize(
    ("device", "name"), cases(EVERY, on_cpu=["deepen, identity", "add_heads, groups"])
)
cuda_rows = pytest.mark.parametrize(("device", "name"), cases(EVERY, on_cpu=[]))


@rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_it_keeps_the_function_or_says_that_it_does_not(device, name, dtype):
    contract.test_a_growth_keeps_the_function_or_says_that_it_does_not(placed(name, device), dtype)


@cuda_rows
def test_references_names_and_ties_stay_good(device, name):
    contract.test_references_names_and_ties_stay_good(placed(name, device))


@cuda_rows
def test_what_is_frozen_does_not_move(device, name):
    contract.test_what_is_frozen_does_not_move(placed(name, device))


@cuda_rows
def test_a_checkpoint_goes_on_bit_for_bit(device, name, same_bits):
    contract.test_a_checkpoint_of_a_grown_model_goes_on_bit_for_bit(placed(name, device))


@cuda_rows
def test_a_rollback_brings_everything_back(device, name, same_bits):
    contract.test_a_rollback_brings_everything_back(placed(name, device))


@cuda_rows
def test_a_second_growth_on_top_of_the_first(device, name):
    contract.test_a_second_growth_on_top_of_the_first(placed(name, device))
