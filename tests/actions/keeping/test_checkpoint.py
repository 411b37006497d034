"""What is taken to host memory and written into files comes back as it was, or is refused."""

import enum
import io
import json
from collections import Counter, OrderedDict, defaultdict, deque
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import stagegraph as sg
from stagegraph.actions.keeping import tensor_files
from stagegraph.actions.keeping.checkpoint import read_checkpoint, take_checkpoint
from stagegraph.actions.keeping.plain import MAX_DEPTH, pack, unpack


def contents(checkpoint):
    files = {}
    for name, write in checkpoint.files().items():
        out = io.BytesIO()
        write(out)
        files[name] = out.getvalue()
    return files


def round_trip(value):
    return read_checkpoint(contents(take_checkpoint(value)))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$", "items", "name"]), inner)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=12,
)


@given(plain)
def test_containers_numbers_and_strings_come_back(value):
    again = round_trip(value)
    assert again == value
    assert repr(again) == repr(value) or isinstance(value, dict | list | tuple | frozenset)


@pytest.mark.parametrize(
    "value",
    [
        float("inf"),
        float("-inf"),
        -0.0,
        2**80,
        b"\x00\xff",
        3 - 2j,
        Fraction(1, 3),
        Fraction(-7, 4),
        Counter({30: 1, 60: 2}),
        OrderedDict([("b", 1), ("a", 2)]),
        deque([1, 2], maxlen=3),
        {(1, "a"): {2.5: None}},
        {3, 1},
        torch.float64,
        torch.device("cpu"),
        torch.Size([2, 3]),
    ],
    ids=repr,
)
def test_other_plain_values_come_back(value):
    again = round_trip(value)
    assert again == value
    assert type(again) is (tuple if type(value) is torch.Size else type(value))
    assert getattr(again, "maxlen", None) == getattr(value, "maxlen", None)


def test_what_is_not_a_number_comes_back_as_such():
    again = round_trip([float("nan")])
    assert again[0] != again[0]


DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32),
    *(torch.int64, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_come_back_bit_for_bit(dtype):
    raw = torch.arange(256, dtype=torch.uint8).repeat(3)
    if dtype is torch.bool:
        raw = raw % 2
    tensors = [raw.view(dtype).reshape(3, -1), raw.view(dtype)[:0], raw.view(dtype)[3]]
    for tensor, again in zip(tensors, round_trip(tensors), strict=True):
        assert (again.dtype, again.shape) == (dtype, tensor.shape)
        assert (
            again.contiguous()
            .reshape(-1)
            .view(torch.uint8)
            .equal(tensor.contiguous().reshape(-1).view(torch.uint8))
        )


def test_views_and_parameters_are_kept_as_what_they_hold():
    base = torch.arange(24.0).reshape(4, 6)
    values = [base.t(), base[::2, 1:3], base.expand(2, 4, 6), torch.nn.Parameter(base)]
    images = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    values += [images, (base + 1j).conj()]
    again = round_trip(values)
    assert all(torch.equal(a, v) for a, v in zip(again, values, strict=True))
    assert not again[3].requires_grad


def test_a_tensor_that_occurs_twice_is_kept_once():
    tensor = torch.randn(1000)
    checkpoint = take_checkpoint({"a": tensor, "b": [tensor]})
    assert checkpoint.nbytes == 4000
    again = read_checkpoint(contents(checkpoint))
    assert again["a"] is again["b"][0]


def test_taking_copies_so_that_training_may_go_on():
    tensor = torch.zeros(3)
    checkpoint = take_checkpoint([tensor])
    tensor += 1
    assert read_checkpoint(contents(checkpoint))[0].tolist() == [0, 0, 0]


def test_numpy_values_come_back():
    numpy = pytest.importorskip("numpy")
    values = [numpy.float64(2.5), numpy.arange(4, dtype="uint32"), numpy.bool_(1), numpy.int64(3)]
    again = round_trip(values)
    assert [type(one) for one in again] == [type(one) for one in values]
    assert all((a == v).all() for a, v in zip(again, values, strict=True))


def test_the_files_are_safetensors_and_json():
    safetensors = pytest.importorskip("safetensors")
    state = {"w": torch.randn(3, 2), "odd": torch.randn(2, dtype=torch.complex128)}
    files = contents(take_checkpoint(state))
    assert set(files) == {"contents.json", "tensors-00000.safetensors"}
    json.loads(files["contents.json"])
    read = dict(safetensors.deserialize(files["tensors-00000.safetensors"]))
    assert read["0"]["dtype"] == "F32" and read["0"]["shape"] == [3, 2]
    assert bytes(read["0"]["data"]) == bytes(state["w"].view(-1).view(torch.uint8).tolist())


def test_large_states_are_cut_into_several_files(monkeypatch):
    monkeypatch.setattr(tensor_files, "FILE_BYTES", 1000)
    state = {str(i): torch.full((100,), float(i)) for i in range(7)} | {"big": torch.ones(900)}
    files = contents(take_checkpoint(state))
    assert sum(name.endswith(".safetensors") for name in files) == 5
    again = read_checkpoint(files)
    assert all(torch.equal(again[key], value) for key, value in state.items())


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: x, r"the state\['a'\]\[1\] is a function, which a checkpoint cannot hold"),
        (Colour.RED, r"the state\['a'\]\[1\] is a Colour, which a checkpoint cannot hold"),
        (defaultdict(list), r"the state\['a'\]\[1\] is a defaultdict"),
        (torch.eye(2).to_sparse(), "is a tensor of layout torch.sparse_coo"),
        (torch.empty(2, device="meta"), "on meta, which a checkpoint cannot hold"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(value, message):
    with pytest.raises(sg.UnsupportedError, match=message):
        take_checkpoint({"a": [1, value]})


def test_endless_nesting_is_refused():
    value = []
    value.append(value)
    with pytest.raises(sg.UnsupportedError, match=f"nested more than {MAX_DEPTH} containers deep"):
        pack(value)


@pytest.mark.parametrize(
    "tree",
    [
        {"$": "object", "value": "os.system"},
        {"$": "tensor", "name": "7"},
        {"$": "tensor"},
        {"$": "dtype", "value": "nn"},
        {"$": "float", "value": "1e3"},
        {"$": "bytes", "value": "é"},
        {"$": "fraction", "value": "1/0"},
        {"$": "fraction", "value": "1e999999999"},
        {"$": "device", "value": "no such device"},
        {"$": "dict", "items": [[1]]},
        {"$": "tuple", "items": 3},
        {"$": ["list"]},
        {"$": "dict", "items": [[{"$": "dict", "items": []}, 1]]},
    ],
    ids=str,
)
def test_other_data_is_refused(tree):
    with pytest.raises(sg.SnapshotError, match="the state cannot be read"):
        unpack(tree, {})


@given(st.binary(max_size=200))
def test_bytes_that_are_no_tensor_file_are_refused(content):
    with pytest.raises(sg.SnapshotError, match="this is no file of tensors"):
        tensor_files.read_tensors([content])


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [10**30], "data_offsets": [0, 8]},
        {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": None, "data_offsets": [0, 8]},
        [],
    ],
    ids=str,
)
def test_a_tensor_file_that_lies_is_refused(entry):
    header = json.dumps({"a": entry}).encode()
    content = len(header).to_bytes(8, "little") + header + b"\0" * 8
    with pytest.raises(sg.SnapshotError, match=r"no file of tensors|outside of its file"):
        tensor_files.read_tensors([content])


def test_a_tree_without_its_file_is_refused():
    files = contents(take_checkpoint({"a": torch.ones(2)}))
    with pytest.raises(sg.SnapshotError, match=r"there is no contents.json in it"):
        read_checkpoint({"tensors-00000.safetensors": files["tensors-00000.safetensors"]})
    with pytest.raises(sg.SnapshotError, match="this checkpoint cannot be read"):
        read_checkpoint({"contents.json": files["contents.json"]})
