"""The main example runs, plain and staged; a few steps of each."""

import difflib
from pathlib import Path

import pytest
import torch

from examples.grow_gpt import data, plain
from examples.grow_gpt.data import load
from examples.grow_gpt.model import GPT

HERE = Path(plain.__file__).parent


@pytest.fixture(scope="module")
def text():
    return load()


@pytest.fixture(autouse=True)
def _one_read(monkeypatch, text):
    monkeypatch.setattr(data, "load", lambda: text)


def test_plain_learns(capsys):
    assert plain.train(steps=30, seed=0) < 4.0  # a guess among 256 bytes costs 5.5
    assert "step 25: loss " in capsys.readouterr().out


def test_plain_main_reads_its_arguments(capsys):
    plain.main(["--steps", "25", "--seed", "3"])
    assert capsys.readouterr().out.startswith("step 25: ")


def test_batches_are_a_function_of_seed_and_step(text):
    def batch(seed, step):
        return text.batch(seed, step, size=2, context=8)[0]

    assert torch.equal(batch(0, 7), batch(0, 7))
    assert not torch.equal(batch(0, 7), batch(0, 8))
    assert not torch.equal(batch(0, 7), batch(1, 7))


def test_targets_are_the_next_bytes(text):
    inputs, targets = text.batch(0, 0, size=3, context=8)
    assert inputs.shape == targets.shape == (3, 8)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_text_is_split_by_file(tmp_path):
    for number in range(40):
        (tmp_path / f"m{number}.py").write_text(f"{number:04d}" * 10)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text("not to be read")
    split = load(tmp_path)
    train, validation = (bytes(part.tolist()).split() for part in (split.train, split.validation))
    assert (len(train), len(validation)) == (38, 2)
    assert not set(train) & set(validation)


def test_model_does_not_see_the_future():
    model = GPT(layers=2, context=8)
    inputs = torch.randint(256, (1, 8))
    changed = inputs.clone()
    changed[0, 5:] = 0
    with torch.no_grad():
        assert torch.equal(model(inputs)[:, :5], model(changed)[:, :5])


def test_train_differs_from_plain_in_few_lines():
    plain_lines, train_lines = (
        (HERE / name).read_text().splitlines() for name in ("plain.py", "train.py")
    )
    added = [
        line
        for line in difflib.ndiff(plain_lines, train_lines)
        if line.startswith("+ ") and line[2:].strip()
    ]
    assert len(added) < 60, "\n".join(added)
