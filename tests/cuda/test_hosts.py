"""Trainers under mixed precision, on a device too: a run that grows resumes bit for bit."""

import shutil
from functools import partial

import pytest
import torch
from accelerate.utils import GradScalerKwargs
from lightning.pytorch.plugins import MixedPrecision

from stagegraph.runs.journal import read_journal
from stagegraph.trainers.huggingface import StagedTrainer
from tests.cuda.placing import cases
from tests.trainers.accelerate.small import EVERYTHING, Skips, live_twice
from tests.trainers.huggingface.prints import differences
from tests.trainers.huggingface.test_resuming import life as in_hugging_face
from tests.trainers.lightning import small as lightning
from tests.trainers.lightning.life import life as in_lightning
from tests.trainers.lightning.test_resuming import Scaled

# What hosts and compilers say of a device is shown, and is no error of ours.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("same_bits")]

OF_THE_MACHINE = {"seconds", "started", "memory"}
OF_A_RESUME = {"resume", "checkpoint", "data", "vitals"}


def comparable(data):
    """Without what a clock or the memory says."""
    if isinstance(data, dict):
        return {k: comparable(v) for k, v in data.items() if k not in OF_THE_MACHINE}
    return [comparable(one) for one in data] if isinstance(data, list) else data


def told(run):
    """The journal of a run, without the records that an end and a resume add."""
    records = read_journal(run / "journal.jsonl")
    return [comparable(one) for one in records if one["type"] not in OF_A_RESUME]


class Overflows(StagedTrainer):
    """With a scaler whose scale changes often; two updates overflow, on each side of the growth."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        kind = self.args.device.type
        self.accelerator.scaler = torch.amp.GradScaler(kind, init_scale=256.0, growth_interval=3)

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        bad = self.model.training and self.state.global_step in (1, 6)
        return loss * float("inf") if bad else loss


FORMS = ["fp16", "bf16", "bf16, scaled"]
"""Precisions; on the CPU accelerate has no scaler of its own."""


@pytest.mark.parametrize(("device", "form"), cases(FORMS, on_cpu=["bf16, scaled"], slow=True))
def test_hugging_faces_resumes_before_and_after_a_growth(tmp_path, device, form):
    given = {form[:4]: True, "use_cpu": device.type == "cpu", "save_steps": 4}
    given["kind"] = StagedTrainer if form == "bf16" else Overflows
    whole, first = in_hugging_face(tmp_path / "whole/out", run=tmp_path / "whole/run", **given)
    first.engine.close()
    assert first.args.device.type == device.type
    assert {p.device.type for p in first.model.parameters()} == {device.type}
    skipped = 0 if form == "bf16" else 2
    assert max(whole) == 14 + skipped and first.engine.progress.step == 14
    assert len({one["scaler"] for one in whole.values()}) > (3 if skipped else 0)
    records = told(tmp_path / "whole/run")
    assert "growth" in [one["type"] for one in records]
    for cut in (4, 8):
        assert whole[cut]["config"] == {4: 2, 8: 3}[cut]
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"cut-{cut}")
        for one in folder.glob("out/checkpoint-*"):
            if int(one.name.partition("-")[2]) > cut:
                shutil.rmtree(one)
        resumed, again = in_hugging_face(folder / "out", resume=True, run=folder / "run", **given)
        again.engine.close()
        assert min(resumed) == cut + 1
        assert not differences(whole, resumed), cut
        assert again.engine.stages == first.engine.stages == {"main": "done"}
        assert told(folder / "run") == records


def scaler(kind):
    """A precision in which the scale changes every few updates."""
    made = torch.amp.GradScaler(kind, init_scale=256.0, growth_interval=3)
    return MixedPrecision("16-mixed", kind, made)


PRECISIONS = {
    "16-mixed": {"precision": "16-mixed", "make": Scaled},
    "16-mixed, quick": {"plugins": scaler, "make": Scaled},
    "bf16-mixed": {"precision": "bf16-mixed"},
}


@pytest.mark.parametrize(
    ("device", "precision"), cases(PRECISIONS, on_cpu=["bf16-mixed"], slow=True)
)
def test_lightnings_resumes_before_and_after_a_growth(tmp_path, device, precision):
    """``Scaled`` overflows in its fourth batch: that update is skipped."""
    given = {
        **PRECISIONS[precision],
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "places": ("batch",),
        "only": (4, 8),
    }
    if "plugins" in given:
        given["plugins"] = partial(scaler, device.type)
    about = {"run": tmp_path / "whole"}
    whole, ours, first = in_lightning(tmp_path / "kept", about=about, **given)
    ours.engine.close()
    assert first.strategy.root_device.type == device.type
    skipped = 0 if precision == "bf16-mixed" else 1
    assert max(whole.seen) >= 14 + skipped and ours.engine.progress.step == 14
    assert len({one["scaler"] for one in whole.seen.values()}) > skipped
    records = told(tmp_path / "whole")
    assert "growth" in [one["type"] for one in records]
    for cut in (4, 8):
        assert whole.seen[cut]["blocks"] == {4: 2, 8: 3}[cut]
        run = shutil.copytree(tmp_path / "whole", tmp_path / f"cut-{cut}")
        kept = str(tmp_path / f"kept/{cut:03}-batch.ckpt")
        resumed, again, _ = in_lightning(None, resume=kept, about={"run": run}, **given)
        again.engine.close()
        assert min(resumed.seen) == cut + 1
        assert not lightning.differences(whole.seen, resumed.seen), cut
        assert again.engine.stages == ours.engine.stages == {"main": "done"}
        assert told(run) == records


@pytest.mark.parametrize("host", [False, True], ids=["the run's", "the host's"])
@pytest.mark.parametrize(("device", "form"), cases(FORMS, on_cpu=["bf16, scaled"], slow=True))
def test_accelerates_resumes_before_and_after_a_growth(tmp_path, device, form, host):
    """With either's checkpoints; a scaler skips two updates, one before and one after."""
    scaled = form != "bf16"
    whole = live_twice(
        tmp_path,
        [3, 9],
        host=host,
        cpu=device.type == "cpu",
        mixed_precision=form[:4],
        make_scaler=lambda: Skips((2, 5), device.type) if scaled else None,
    )
    assert whole.accelerator.device.type == device.type
    assert {p.device.type for p in whole.model.parameters()} == {device.type}
    assert whole.engine.progress.step == max(whole.seen) == 12 and len(whole.model.blocks) == 3
    assert len({one["scaler"] for one in whole.seen.values()}) > (3 if scaled else 0)
    records = told(tmp_path / "whole/run")
    assert "growth" in [one["type"] for one in records]
    for cut in (3, 9):
        assert told(tmp_path / f"cut-{cut}/run") == records


@pytest.mark.parametrize(("device", "precision"), cases(["fp16", "bf16"], on_cpu=[]))
def test_accelerates_resumes_inside_an_accumulation_under_everything(tmp_path, device, precision):
    """Also teachers, a rollback, averaged weights; the scaler is the one that accelerate made."""
    quick = GradScalerKwargs(init_scale=256.0, growth_interval=3)
    live_twice(
        tmp_path,
        [4, 10],
        EVERYTHING,
        host=True,
        cpu=device.type == "cpu",
        mixed_precision=precision,
        kwargs_handlers=[quick],
        gradient_accumulation_steps=2,
        ema=True,
    )
