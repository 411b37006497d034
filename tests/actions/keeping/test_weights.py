"""Weights that are kept for good: plain names for everybody, and back bit for bit or not at all."""

import io
import json

import pytest
import torch
from safetensors.torch import load
from torch import nn

from stagegraph.actions.attribute_holding import Wanted
from stagegraph.actions.companions import Companions
from stagegraph.actions.keeping.weights import load_weights, take_weights, why_not_saved
from stagegraph.actions.number_holding import WantedNumber
from stagegraph.actions.standing import Standing
from stagegraph.errors import SnapshotError, UnsupportedError
from stagegraph.schema.spaces import Spaces


class Tied(nn.Module):
    """An embedding and an output that share their weight; odd buffers; a state of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight
        self.drop = nn.Dropout(0.5)
        self.use = "first"
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("none", torch.zeros(0, 4))
        self.register_buffer("wide", torch.randn(3, dtype=torch.complex128))
        self.register_buffer("scale", torch.randn(2, 2).to(torch.float8_e4m3fn))
        self.register_buffer("cache", torch.randn(4), persistent=False)
        self.told = {"count": 3, "at": torch.tensor([1.5]), "odd": (1, float("inf"))}

    def get_extra_state(self):
        return self.told

    def set_extra_state(self, state):
        self.told = state


def standing(model):
    return Standing(model, (), Companions.of(None, None, None, None), None, Spaces(), {})


def taken(model, moment=None):
    return take_weights(standing(model), "kept", moment or {})


def written(weights):
    files = {}
    for name, write in weights.files().items():
        out = io.BytesIO()
        write(out)
        files[name] = out.getvalue()
    return files


def state(model):
    """All that a model holds, as text."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = {key: (value.dtype, value.tolist()) for key, value in tensors.items()}
    return kept, str(getattr(model, "told", None))


def test_every_reader_finds_the_state_dict_under_its_own_names():
    torch.manual_seed(0)
    model = Tied()
    files = written(taken(model))
    assert sorted(files) == [
        "buffers-00000.safetensors",
        "extra-00000.safetensors",
        "shape.json",
        "tensors-00000.safetensors",
    ]
    read = load(files["tensors-00000.safetensors"])
    own = {key: value for key, value in model.state_dict().items() if key != "_extra_state"}
    assert set(read) == set(own)
    assert {"embed.weight", "out.weight"} <= set(read), "tied ones under both"
    for key in set(own) - {"wide"}:  # a type that safetensors does not know: its bytes
        assert read[key].dtype == own[key].dtype and read[key].tolist() == own[key].tolist()


def test_all_comes_back_bit_for_bit_also_what_is_no_tensor():
    torch.manual_seed(0)
    model = Tied()
    weights = taken(model)
    expected = state(model)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.norm.running_mean):
            tensor.add_(1)
    torch.manual_seed(1)
    fresh = Tied()
    fresh.told = {}
    load_weights(fresh, written(weights))
    assert state(fresh) == expected, "and not what the model has become since"
    assert fresh.out.weight is fresh.embed.weight
    assert isinstance(fresh.told["odd"], tuple)


def test_tied_tensors_are_copied_once_and_written_twice():
    weights = taken(Tied())
    assert weights.tensors["embed.weight"] is weights.tensors["out.weight"]
    assert json.loads(written(weights)["shape.json"])["tied"] == [["embed.weight", "out.weight"]]
    files = written(weights)
    headers = sum(8 + int.from_bytes(f[:8], "little") for n, f in files.items() if n[0] != "s")
    assert weights.nbytes == sum(len(f) for n, f in files.items() if n[0] != "s") - headers


def test_what_a_stage_holds_is_held_and_the_rest_is_the_models_own():
    model = Tied()
    held = standing(model)
    held.attributes.hold([model], [Wanted("a", "use", "second")])
    held.numbers.hold([model], [WantedNumber("b", "drop.p", 0.25)])
    weights = take_weights(held, "kept", {})
    fresh = Tied()
    load_weights(fresh, written(weights))
    assert (fresh.use, fresh.drop.p) == ("second", 0.25)


class Refusing(Tied):
    def set_extra_state(self, state):
        raise RuntimeError("not this one")


def test_a_load_that_fails_leaves_the_model_and_random_numbers_as_they_were():
    files = written(taken(Tied()))
    fresh = Refusing()
    before, random = state(fresh), torch.get_rng_state()
    with pytest.raises(
        SnapshotError, match=r"into this Refusing: .*not this one.*give a new model"
    ):
        load_weights(fresh, files)
    assert state(fresh) == before
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape.json": b"{"}, "cannot be loaded"),
        ({"shape.json": b'{"version": 99}'}, "version 99"),
        ({"shape.json": b"[]"}, "cannot be loaded"),
        ({"tensors-00000.safetensors": b"x"}, "no file of tensors"),
        ({"buffers-00000.safetensors": b"\x08" + b"\0" * 7 + b'{"a":{}}'}, "no file of tensors"),
    ],
)
def test_what_is_no_saved_model_is_refused(change, message):
    files = {**written(taken(Tied())), **change}
    fresh = Tied()
    before = state(fresh)
    with pytest.raises(SnapshotError, match=message):
        load_weights(fresh, files)
    assert state(fresh) == before


def odd(name):
    model = nn.Sequential(nn.Linear(2, 2))
    match name:
        case "sparse":
            model.register_buffer("a", torch.eye(2).to_sparse())
        case "meta":
            model.register_buffer("a", torch.zeros(2, device="meta"))
        case "lazy":
            model.append(nn.LazyLinear(2))
        case "wrapped":
            return nn.Sequential(nn.DataParallel(model))
        case "subclass":
            kind = type("Special", (torch.Tensor,), {})
            model.register_buffer("a", torch.zeros(2).as_subclass(kind))
        case "extra":
            model = Tied()
            model.told = {"what": {"by": object()}}
    return model


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sparse", "a is quantized or of layout torch.sparse_coo"),
        ("meta", "a is on the device 'meta'"),
        ("lazy", "1.weight has no shape before the first forward; 1.bias has no shape"),
        ("wrapped", "0 is wrapped in DataParallel"),
        ("subclass", "a is a Special: what is saved are dense tensors"),
        ("extra", r"_extra_state'\]\['what'\]\['by'\] is a object, which a checkpoint cannot hold"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(name, message):
    (reason,) = why_not_saved(odd(name))
    with pytest.raises(UnsupportedError, match=message) as refused:
        taken(odd(name))
    assert str(refused.value) == reason
    assert why_not_saved(nn.Linear(2, 2)) == []
