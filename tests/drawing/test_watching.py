"""How a run stands, in lines for a terminal."""

from stagegraph.drawing.clean import cells
from stagegraph.drawing.watching import view

STATUS = {
    "graph": "growing",
    "state": "running",
    "step": 1200,
    "made": 1500,
    "steps_per_second": 12.345,
    "progress": {"tokens": 5_000_000, "seconds": 90.0},
    "host": "box",
    "pid": 7,
    "stages": {"arch": "warmup", "data": "hard"},
    "in_stage": {"arch": 30, "data": 500},
    "commands": {"held": {"data": "ann@box"}, "paused": None},
    "waits": [f"w{n}" for n in range(12)],
    "metrics": {"val_loss": 0.25, "acc": None},
    "params": 1_200_000,
    "lr": [0.001, 0.001, 0.1],
    "alphas": {"arch:grow#1": 0.5},
    "budget": {"steps": {"left": 500.0, "of": 2000}},
    "noted": [
        {
            "type": "command", "step": 9, "name": "hold", "argument": "data", "author": "ann@box",
            "status": "taken", "told": "held in data:hard",
        }
    ],
}  # fmt: skip


def test_everything_is_shown():
    assert view(STATUS) == [
        "growing  running",
        "step 1,200 (1,500 made)  12.3 steps/s  5M tokens  1m30s  box, process 7",
        "",
        "arch      warmup  for 30 steps",
        "data      hard  for 500 steps  held by ann@box",
        "waits for w0",
        *(f"          w{n}" for n in range(1, 8)),
        "          and 4 more",
        "metrics   val_loss 0.25  acc unknown",
        "model     1.2M params  lr 0.001, 0.1  α arch:grow#1 0.50",
        "budget    steps    " + "█" * 18 + "░" * 6 + " 500 of 2k left",
        "",
        "step 9  command  hold data, by ann@box: taken: held in data:hard",
    ]


def test_lines_are_as_wide_as_the_terminal():
    assert max(cells(line) for line in view(STATUS, width=20)) <= 20


def test_a_silent_run_says_so_and_an_ended_one_why():
    assert view(STATUS, silent="no sign of life for 60 s")[0] == "growing  no sign of life for 60 s"
    assert view({**STATUS, "state": "done", "ended": "budget"})[0] == "growing  ended: budget"
    paused = {**STATUS, "state": "paused", "commands": {"paused": "bob@box"}}
    assert view(paused)[0] == "growing  paused by bob@box"


def test_an_empty_status_is_no_trouble():
    assert view({})[:4] == [
        "a run  unknown",
        "no step yet  unknown, process unknown",
        "",
        "no stage yet",
    ]


def test_colour_comes_only_where_it_is_asked_for():
    assert not any("\x1b" in line for line in view(STATUS))
    assert "\x1b[32mrunning" in view(STATUS, colour=True)[0]
