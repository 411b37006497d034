import pytest
import torch
from torch import nn

from stagegraph.actions.growth.modules.widths import features_are_last, read_width, written_width
from tests.actions.models import Block


class Conv1D(nn.Module):
    """As GPT-2 has it: a linear layer, its weight the other way round."""

    def __init__(self, written, read):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(read, written))
        self.bias = nn.Parameter(torch.zeros(written))


class Gain(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))


@pytest.mark.parametrize(
    ("module", "read", "written"),
    [
        (nn.Linear(3, 5), 3, 5),
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)), 3, 4),
        (nn.Sequential(nn.ReLU(), nn.LayerNorm(6), nn.Dropout()), 6, 6),
        (nn.Sequential(nn.RMSNorm(6), nn.Linear(6, 2)), 6, 2),
        (nn.MultiheadAttention(8, 2), 8, 8),
        (nn.Conv2d(3, 7, 1), 3, 7),
        (nn.Sequential(Gain(9), Conv1D(4, 9)), 9, 4),
        (nn.Sequential(nn.Embedding(100, 6), nn.Linear(6, 2)), 6, 2),
        (nn.Embedding(100, 6), None, 6),
        (nn.ReLU(), None, None),
        (Block(), 8, 8),
    ],
)
def test_widths_are_told_from_the_first_and_the_last_layer(module, read, written):
    assert (read_width(module), written_width(module)) == (read, written)


def test_convolutions_have_their_features_elsewhere():
    assert not features_are_last(nn.Sequential(nn.Conv1d(2, 2, 1)))
    assert not features_are_last(nn.BatchNorm2d(2))
    assert features_are_last(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
