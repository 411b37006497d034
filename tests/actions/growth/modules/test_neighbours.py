import torch
from torch import nn
from torch.optim import SGD

from stagegraph.actions.growth.modules.neighbours import Neighbours
from tests.actions.growth.grown import Residual
from tests.actions.models import Model


def names_of(model, templates):
    names = {id(p): name for name, p in model.named_parameters()}
    return [names.get(id(p)) for p in templates.values()]


def new(*shapes):
    return {f"new.{at}": nn.Parameter(torch.zeros(shape)) for at, shape in enumerate(shapes)}


def test_the_nearest_of_as_many_dimensions_in_the_host_comes_first():
    model = Model(block=Residual)
    near = Neighbours(model, [SGD(model.parameters(), lr=0.1)])
    found = near.templates("blocks.1.mlp", new((3, 3), (3,)))
    assert names_of(model, found) == ["blocks.1.mlp.up.weight", "blocks.1.mlp.up.bias"]


def test_then_what_is_around_the_host_outward():
    model = Model(block=Residual)
    trained = [p for n, p in model.named_parameters() if "mlp" not in n and "blocks.0" not in n]
    near = Neighbours(model, [SGD(trained, lr=0.1)])
    found = near.templates("blocks.1.mlp", new((3, 3), (3,)))
    assert names_of(model, found) == ["inp.weight", "blocks.1.norm.weight"]


def test_where_none_has_as_many_the_nearest_at_all():
    model = Model(block=Residual)
    near = Neighbours(model, [SGD([model.head.bias, model.inp.bias], lr=0.1)])
    found = near.templates("blocks.0.mlp", new((3, 3)))
    assert names_of(model, found) == ["inp.bias"]


def test_where_nothing_is_trained_each_is_its_own():
    parameters = new((3,))
    assert Neighbours(Model(), []).templates("head", parameters) == {
        p: p for p in parameters.values()
    }


def test_a_copy_joins_what_it_was_copied_from():
    model = Model(block=Residual)
    near = Neighbours(model, [SGD(model.parameters(), lr=0.1)])
    mlp = model.blocks[0].mlp
    copies = {f"experts.1.{n}": nn.Parameter(p.detach().clone()) for n, p in mlp.named_parameters()}
    found = near.templates("blocks.0.mlp", copies, copied_from=mlp)
    assert [id(p) for p in found.values()] == [id(p) for p in mlp.parameters()]
