"""DistributedDataParallel on a device: it grows in place, compiled too, and resumes bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import stagegraph as sg
from tests.cuda.placing import CUDA
from tests.ranks.processes import on_ranks
from tests.ranks.small import train


def within(engine: sg.Engine, model: Any) -> tuple[int, str, int]:
    """Which object is called, where its weights are, how many blocks it has."""
    wrapper = getattr(model, "_orig_mod", model)
    assert isinstance(wrapper, DistributedDataParallel)
    (kind,) = {p.device.type for p in wrapper.parameters()}
    return id(wrapper), kind, len(wrapper.module.blocks)


def lives(
    rank: int, size: int, folder: Path, device: str, compiled: str | None, cuts: tuple[int, ...]
) -> Any:
    """A whole run, and the same cut and gone on with at several updates."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    given = {"device": device, "compiled": compiled}
    whole = train(rank, size, folder / "whole", seen=within, **given)
    again = []
    for cut in cuts:
        train(rank, size, folder / f"cut-{cut}", updates=cut, **given)
        again.append(train(rank, size, folder / f"cut-{cut}", **given))
    return whole, again


def check(found: list[Any], kind: str) -> None:
    for whole, again in found:
        objects, kinds, blocks = zip(*whole["seen"], strict=True)
        assert len(set(objects)) == 1 and set(kinds) == {kind}
        assert (blocks[0], blocks[-1]) == (2, 4)
        assert (whole["stages"], whole["step"]) == ({"main": "done"}, 14)
        for one in again:
            assert one["weights"] == whole["weights"]
            assert one["losses"] == whole["losses"][-len(one["losses"]) :]
            assert (one["stages"], one["step"]) == (whole["stages"], 14)


def case(backend: str, device: str, compiled: str | None, cuts: tuple[int, ...]) -> Any:
    marks = CUDA if device.startswith("cuda") else pytest.mark.slow  # tests/ranks has two of them
    name = "-".join([backend, compiled or "plain", *map(str, cuts)])
    return pytest.param(backend, device, compiled, cuts, id=name, marks=marks)


# Grows deeper at 3, wider at 6, freezes until 9: before, in a ramp, and after it all.
@pytest.mark.parametrize(
    ("backend", "device", "compiled", "cuts"),
    [
        case("gloo", "cpu", None, (2, 4, 10)),
        case("gloo", "cpu", "aot_eager", (2, 4, 10)),
        case("nccl", "cuda:0", None, (2, 4, 10)),
        case("nccl", "cuda:0", "aot_eager", (2, 4, 10)),
        *(case("nccl", "cuda:0", "inductor", (cut,)) for cut in (2, 4, 10)),
    ],
)
def test_one_rank_grows_in_place_and_goes_on(
    tmp_path: Path, backend: str, device: str, compiled: str | None, cuts: tuple[int, ...]
) -> None:
    if compiled == "inductor" and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("inductor needs a C compiler")
    args = (1, tmp_path, device, compiled, cuts)
    found = on_ranks(1, lives, *args, folder=tmp_path, seconds=170, backend=backend)
    check(found, torch.device(device).type)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_ranks_on_one_device_stay_alike_and_go_on(tmp_path: Path) -> None:
    """NCCL takes a device for each rank; gloo brings what is on one device to both."""
    args = (2, tmp_path, "cuda:0", None, (2, 4, 10))
    found = on_ranks(2, lives, *args, folder=tmp_path, seconds=120)
    check(found, "cuda")
    (first, _), (second, _) = found
    assert first["weights"] == second["weights"]
    assert first["losses"] != second["losses"]  # each has a share of its own
