"""Products of ten bits (TF32, which CUDA takes if it is allowed): what a growth says of them."""

import pytest

from stagegraph.errors import ActionError
from tests.actions.models import digest
from tests.contracts.growths import OPTIMIZERS, Scene
from tests.cuda.placing import cases, placed, precision

WIDE = ["widen, split", "widen, uneven", "widen, split, channels", "add_heads, groups"]


@pytest.mark.parametrize(
    ("device", "name"), cases(["deepen, identity"], on_cpu=["deepen, identity"])
)
def test_a_block_that_adds_nothing_is_exact_in_any_precision(device, name):
    with precision(ten_bits=True):
        scene = Scene(placed(name, device), OPTIMIZERS["AdamW, foreach"]).prepare()
        scene.step(2)
        assert scene.grow()["exactness"] == "exact"


@pytest.mark.parametrize(("device", "name"), cases(WIDE, on_cpu=[]))
def test_what_is_wider_is_within_rounding_or_refused_without_a_trace(device, name):
    """Sums are of other lengths, and shares of a third are rounded: it may be too much to pass."""
    with precision(ten_bits=True):
        scene = Scene(placed(name, device), OPTIMIZERS["AdamW, foreach"]).prepare()
        scene.step(2)
        before = digest(scene.model, *scene.optimizers)
        said = _grown_or_refused(scene)
        if said.startswith("exact"):
            return
        print(f"{name}: {said}")
        assert "the growth was to keep the function" in said
        assert digest(scene.model, *scene.optimizers) == before


def _grown_or_refused(scene):
    try:
        return scene.grow()["exactness"]
    except ActionError as error:
        return str(error)
