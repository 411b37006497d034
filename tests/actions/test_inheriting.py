"""``stagegraph.inherit``: a smaller model's weights, and an account of every tensor."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.optim import AdamW

import stagegraph as sg
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.sized import (
    CONVS,
    F64,
    SIZED_GPT,
    SizedConvs,
    SizedGpt,
    SizedMlp,
    stirred,
)
from tests.actions.growth.wide import MLP, TrueRmsNorm, ids, images
from tests.actions.models import digest

X = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def out(model, batch):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(batch)


def same(large, small, batch):
    torch.testing.assert_close(out(large, batch), out(small, batch), rtol=0, atol=1e-12)


# The function


@pytest.mark.parametrize("how", ["split", "uneven", "zero_out", "zero_in", "pair"])
def test_a_perceptron_computes_what_the_smaller_one_did(how):
    small, large = SizedMlp().to(F64), SizedMlp(10, 11).to(F64)
    report = sg.inherit(large, small, spaces=MLP, how=how, probe=X, strict=True)
    same(large, small, X)
    assert report.promised
    assert report.exactness.startswith("exact")
    assert report.counts == {"copied": 1, "grown": 5, "left": 0, "refused": 0, "unused": 0}


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, TrueRmsNorm])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("how", "width"), [("split", 16), ("split", 19), ("zero_in", 11)])
def test_a_language_model_grows_in_every_direction_at_once(norm, tied, how, width):
    small = SizedGpt(norm=norm, tied=tied).to(F64)
    large = SizedGpt(width, 4, 15, 4, norm=norm, tied=tied).to(F64)
    report = sg.inherit(large, small, spaces=SIZED_GPT, how=how, probe=ids(), strict=True)
    same(large, small, ids())
    assert report.change < 1e-13
    assert (large.head.weight is large.emb.weight) is tied


def test_weights_alone_need_the_sizes_that_do_not_follow():
    small, large = SizedGpt().to(F64), SizedGpt(16, 4, 20, 4).to(F64)
    with pytest.raises(
        sg.UnsupportedError,
        match=r"size that .*'groups'.* has in the smaller model does not follow.*give sizes:",
    ):
        sg.inherit(large, small.state_dict(), spaces=SIZED_GPT, probe=ids())
    sizes = {"groups": 2, "per_group": 2}
    report = sg.inherit(large, small.state_dict(), spaces=SIZED_GPT, probe=ids(), sizes=sizes)
    same(large, small, ids())
    assert report.exactness is None
    assert report.promised


def test_running_statistics_come_along():
    small, large = stirred(SizedConvs()).to(F64), SizedConvs(10).to(F64)
    small.bn.num_batches_tracked += 7
    batch = images().to(F64)
    sg.inherit(large, small, spaces=CONVS, probe=batch, strict=True)
    same(large, small, batch)
    assert torch.equal(large.bn.running_var[:4], small.bn.running_var)
    assert torch.equal(large.bn.running_var[4:8], small.bn.running_var)
    assert large.bn.num_batches_tracked == 7


def test_the_eps_is_that_of_the_smaller_model():
    small, large = SizedGpt().to(F64), SizedGpt(11).to(F64)
    for norm in (m for m in small.modules() if isinstance(m, nn.LayerNorm)):
        norm.eps = 1e-3
    report = sg.inherit(large, small, spaces=SIZED_GPT, probe=ids(), strict=True)
    same(large, small, ids())
    assert large.last.eps == pytest.approx(1e-3 * 8 / 11)
    assert report.written["last.eps"] == (1e-5, large.last.eps)


@pytest.mark.parametrize(
    ("stacks", "sources"), [("stack", [0, 1, 0, 1]), ("interleave", [0, 0, 1, 1])]
)
def test_additional_blocks_can_be_copies(stacks, sources):
    small, large = SizedGpt().to(F64), SizedGpt(num=4).to(F64)
    report = sg.inherit(large, small, stacks=stacks, probe=ids(), strict=True)
    for block, source in zip(large.blocks, sources, strict=True):
        assert torch.equal(block.up.weight, small.blocks[source].up.weight)
    assert not report.promised
    assert report.exactness == "approximate"


def test_additional_blocks_can_be_left():
    small, large = SizedGpt().to(F64), SizedGpt(num=3).to(F64)
    kept = large.blocks[2].up.weight.detach().clone()
    report = sg.inherit(large, small, stacks="leave")
    assert torch.equal(large.blocks[2].up.weight, kept)
    assert {t.words for t in report.tensors if t.status == "left"} == {"an additional block"}


def test_an_identity_is_proven_on_a_batch():
    small, large = SizedGpt(), SizedGpt(num=3)
    before = digest(large)
    with pytest.raises(sg.UnsupportedError, match=r"blocks.2 are not in the weights.*give probe="):
        sg.inherit(large, small)
    assert digest(large) == before


def test_the_corner_keeps_the_rest():
    small, large = SizedMlp(), SizedMlp(9, 5)
    rest = large.one.weight[6:].detach().clone()
    report = sg.inherit(large, small.state_dict(), how="corner", strict=True)
    assert torch.equal(large.one.weight[:6], small.one.weight)
    assert torch.equal(large.one.weight[6:], rest)
    assert torch.equal(large.two.weight[:, :6], small.two.weight)
    assert not report.promised


def test_the_corner_of_a_packed_axis_is_that_of_its_factors():
    small, large = nn.Linear(4, 6), nn.Linear(4, 9)  # two heads of three, and three of three
    small, large = nn.Sequential(small), nn.Sequential(large)
    spaces = Spaces(tensors={"0.weight": "(3 dim) _", "0.bias": "(3 dim)"})
    sg.inherit(large, small.state_dict(), how="corner", spaces=spaces)
    assert torch.equal(large[0].weight.view(3, 3, 4)[:, :2], small[0].weight.view(3, 2, 4))


# The report


def test_the_report_reads_well():
    small, large = SizedMlp(6, 5).to(F64), SizedMlp(12, 4).to(F64)
    weights = {f"module.{k}": v for k, v in small.state_dict().items()}
    weights["module.old.scale"] = torch.ones(2)
    report = sg.inherit(large, weights, spaces=MLP, rename={"module.*": "*"}, leave=["three.bias"])
    cut = (
        "space 'second' has 5 units and 4 here: nothing is cut off; take a model at least as large"
    )
    assert report.table().splitlines() == [
        "tensor        from                 status   shape        how",
        "one.weight    module.one.weight    grown    6×4 to 12×4  axis 0 first 6 to 12",
        "one.bias      module.one.bias      grown    6 to 12      axis 0 first 6 to 12",
        f"two.weight    module.two.weight    refused  5×6 to 4×12  {cut}",
        f"two.bias      module.two.bias      refused  5 to 4       {cut}",
        f"three.weight  module.three.weight  refused  3×5 to 3×4   {cut}",
        "three.bias    -                    left     3            left alone, as asked",
        "-             module.three.bias    unused",
        "-             module.old.scale     unused",
        "2 grown, 1 left, 3 refused, 2 unused",
    ]
    assert json.loads(json.dumps(report.as_json()))["counts"]["refused"] == 3


def test_a_strict_one_lists_all_that_is_refused_and_changes_nothing():
    small, large = SizedMlp(8, 5), SizedMlp(6, 7)
    before = digest(large)
    with pytest.raises(sg.UnsupportedError) as caught:
        sg.inherit(large, small.state_dict(), strict=True)
    told = str(caught.value)
    assert "inherit: 5 of the weights cannot be taken:" in told
    assert "one.weight (8, 4) for (6, 4): axis 0 has 8 and 6 here: nothing is cut off" in told
    assert "three.weight (3, 5) for (3, 7): axis 1 has 5 and 7 here, and no space says how" in told
    assert digest(large) == before


def test_fewer_blocks_are_refused():
    report = sg.inherit(SizedGpt(num=2), SizedGpt(num=3).state_dict())
    refused = {t.words for t in report.tensors if t.status == "refused"}
    assert refused == {
        "stack 'blocks' has 3 blocks in the weights and 2 here: nothing is cut off; take a model "
        "with as many at least"
    }
    assert report.counts["copied"] == 4


def test_one_tensor_cannot_hold_two():
    small, large = SizedGpt(tied=False), SizedGpt(tied=True)
    report = sg.inherit(large, small)
    (refused,) = [t for t in report.tensors if t.status == "refused"]
    assert refused.words == (
        "emb.weight and head.weight are one tensor here and differ in the weights: untie them here;"
        " one with head.weight"
    )


def test_a_function_that_was_to_stay_and_did_not_is_undone_where_strict():
    class Sigmoid(SizedMlp):
        def forward(self, x):
            return self.three(torch.sigmoid(self.two(torch.sigmoid(self.one(x)))))

    small, large = SizedMlp().to(F64), Sigmoid(9, 5).to(F64)
    optimizer = AdamW(large.parameters())
    before = digest(large, optimizer)
    with pytest.raises(
        sg.UnsupportedError, match="was to compute what 'weights' does, and its out"
    ):
        sg.inherit(large, small, spaces=MLP, probe=X, optimizer=optimizer, strict=True)
    assert digest(large, optimizer) == before
    report = sg.inherit(large, small, spaces=MLP, probe=X)
    assert report.exactness == "approximate"


# What stays


def test_objects_dtype_and_memory_stay():
    small, large = stirred(SizedConvs()), SizedConvs(8).to(torch.bfloat16)
    large = large.to(memory_format=torch.channels_last)
    large.stem.weight.requires_grad_(False)
    large.fc.weight.grad = torch.ones_like(large.fc.weight)
    tensors = [*large.parameters(), *large.buffers()]
    sg.inherit(large, small, spaces=CONVS)
    assert all(
        a is b for a, b in zip(tensors, [*large.parameters(), *large.buffers()], strict=True)
    )
    assert {p.dtype for p in large.parameters()} == {torch.bfloat16}
    assert large.next.weight.is_contiguous(memory_format=torch.channels_last)
    assert not large.stem.weight.requires_grad
    assert large.fc.weight.grad is None


def test_the_smaller_model_and_the_random_numbers_are_left_alone():
    small, large = SizedGpt(), SizedGpt(16, 4, 20, 4)
    before, numbers = digest(small), torch.get_rng_state()
    sg.inherit(large, small, spaces=SIZED_GPT, how="split", probe=ids())
    assert digest(small) == before
    assert torch.equal(torch.get_rng_state(), numbers)
    small.emb.weight.data.zero_()
    assert large.emb.weight.abs().max() > 0


@pytest.mark.parametrize("state", ["reset", "keep"])
def test_the_optimizer_forgets_what_was_overwritten_if_asked(state):
    small, large = SizedMlp(), SizedMlp()
    optimizer = AdamW(large.parameters())
    large(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    report = sg.inherit(large, small, optimizer=optimizer, state=state, leave=["one.*"])
    assert report.forgotten == (4 if state == "reset" else 0)
    assert len(optimizer.state) == (2 if state == "reset" else 6)
    assert large.one.weight in optimizer.state


# Files


def test_a_checkpoint_is_read_without_running_anything(tmp_path):
    small, large = SizedMlp(), SizedMlp()
    torch.save(small.state_dict(), tmp_path / "a.pt")
    sg.inherit(large, tmp_path / "a.pt", strict=True)
    assert torch.equal(large.two.weight, small.two.weight)
    torch.save(small, tmp_path / "whole.pt")
    with pytest.raises(
        sg.UnsupportedError, match=r"whole.pt' cannot be read as a checkpoint of te"
    ):
        sg.inherit(large, tmp_path / "whole.pt")
    torch.save({"model": small.state_dict(), "step": 3}, tmp_path / "more.pt")
    with pytest.raises(
        sg.UnsupportedError, match=r"no tensor in the weights; it has 'model' insid"
    ):
        sg.inherit(large, tmp_path / "more.pt")


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        ("missing.pt", {}, r"there is no file 'missing.pt'"),
        (3, {}, r"weights are a state dict, a model or the path of a checkpoint, got a int"),
        ({"a": torch.ones(1)}, {}, r"no tensor of the weights can be taken \(they have 'a', ...\)"),
        ({}, {}, "there is no tensor in the weights"),
        (SizedMlp(), {"how": "crop"}, "inherit: how: Input should be .*, got 'crop'"),
        (SizedMlp(), {"leave": ["on.*"]}, r"leave 'on.\*' matches no parameter or buffer"),
        (SizedMlp(), {"rename": {"x.*": "*"}}, r"rename: no tensor of the weights matches 'x.\*'"),
        (SizedMlp(), {"rename": {"one.weight": "*"}}, r"rename 'one.weight' has fewer \* than"),
        (
            SizedMlp(),
            {"rename": {"*.bias": "b"}},
            "'one.bias' and 'two.bias' of the weights would both be called 'b'",
        ),
        (
            SizedMlp(),
            {"sizes": {"frist": 3}, "spaces": MLP},
            "sizes: no layout names a space 'frist'; did you mean 'first'",
        ),
    ],
)
def test_what_cannot_be_is_said(given, more, message):
    with pytest.raises(sg.StageGraphError, match=message):
        sg.inherit(SizedMlp(), given, **more)
