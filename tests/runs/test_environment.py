"""With what a run was made, and what is not the same any more."""

from importlib.metadata import version

from stagegraph.runs.environment import differences, environment


def test_the_environment_names_what_takes_part():
    found = environment()
    assert found["torch"] == version("torch")
    assert found["stagegraph"] == version("stagegraph")
    assert all(isinstance(value, str) and value for value in found.values())
    found.clear()
    assert environment(), "nobody can change it"


def test_differences_are_told_in_words():
    before = {"torch": "2.12.0", "peft": "0.18", "python": "CPython 3.11.7"}
    now = {"torch": "2.13.0", "numpy": "2.0", "python": "CPython 3.11.7"}
    assert differences(before, now) == [
        "numpy: none, now 2.0",
        "peft: 0.18, now none",
        "torch: 2.12.0, now 2.13.0",
    ]
    assert differences(now, now) == []
