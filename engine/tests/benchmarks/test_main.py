"""The results of several commands make one page."""

from benchmarks.__main__ import together


def _part(command, rounds, **measured):
    empty = {"floors": [], "runs": [], "startup": []}
    return {
        "machine": {"cpu": "x"},
        "settings": {"rounds": rounds, "saves": 3},
        "command": command,
        **empty,
        **measured,
    }


def test_the_figures_of_several_commands_are_those_of_one():
    one, other = (
        _part("make a", 2, runs=[{"round": 1}], floors=[2]),
        _part("make b", 3, runs=[{"round": 3}], startup=[4]),
    )
    found = together([one, other])
    assert found["runs"] == [{"round": 1, "command": 0}, {"round": 3, "command": 1}]
    assert (found["floors"], found["startup"]) == ([2], [4])
    assert found["settings"] == {"rounds": 3, "saves": 3}
    assert found["command"] == "make a\nmake b"


def test_a_result_of_an_older_version_lacks_newer_parts():
    found = together([_part("make a", 1), _part("make b", 1, tracking=[1]), _part("make c", 1, tracking=[2])])
    assert found["tracking"] == [1, 2]


def test_a_single_result_is_unchanged():
    part = _part("make a", 2, floors=[1])
    assert together([part]) == part
