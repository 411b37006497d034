import pytest
import torch
from torch import nn

from stagegraph.actions.contents import Contents, storages, tensors_in
from stagegraph.actions.undo import untouched


@pytest.mark.parametrize("host", [False, True])
def test_contents_come_back_in_place(host):
    x, y = torch.arange(6.0).reshape(2, 3), torch.tensor([1, 2])
    kept = Contents([x, y, x.t(), x], host=host)
    assert kept.num_bytes == 6 * 4 + 2 * 8
    address = x.data_ptr()
    x.mul_(7)
    y.zero_()
    kept.restore()
    assert x.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] and y.tolist() == [1, 2]
    assert x.data_ptr() == address


def test_an_expanded_tensor_comes_back():
    x = torch.ones(3)
    kept = Contents([x.expand(4, 3)])
    x.zero_()
    kept.restore()
    assert x.tolist() == [1.0, 1.0, 1.0] and kept.num_bytes == 12


def test_a_sparse_tensor_comes_back_and_meta_holds_nothing():
    x = torch.eye(2).to_sparse()
    kept = Contents([x, torch.empty(3, device="meta")])
    x.mul_(3)
    kept.restore()
    assert x.to_dense().tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_memory_is_counted_once():
    x = torch.ones(4)
    assert [s.nbytes() for s in storages([x, x[1:], x.view(2, 2)]).values()] == [16]
    assert storages([torch.empty(0), torch.empty(2, device="meta")]) == {}


def test_tensors_in_containers():
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    assert list(tensors_in({"a": a, "b": [b, (c, "text", 3)], "c": None})) == [a, b, c]


def test_a_model_with_an_expanded_buffer_can_be_run_without_a_trace():
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.zeros(2).expand(3, 2))
    with untouched(model):
        model(torch.ones(1, 2))
    assert model.mask.shape == (3, 2)
