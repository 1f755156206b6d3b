"""Interpolations that a resolved configuration gets back."""

import pytest
from omegaconf import OmegaConf

from cairn.hydra.command import resolvers
from cairn.hydra.compose import interpolation


def test_values_are_linked_where_the_interpolation_still_gives_them():
    own = {"a": 1, "b": 1, "c": 2, "d": [1, {"e": 1}], "f": {"a": 1, "g": 1}, "h": {"a": 1}, 3: 1}
    composed = {
        "b": "${a}",
        "c": "${a}",
        "d": ["${a}", {"e": "${f.a}"}],
        "f": {"g": "${.a}"},
        "h": "${f}",
        3: "${a}",
        "x": "${a}",
    }
    linked = interpolation.restore(OmegaConf.create(own), composed)
    assert OmegaConf.to_container(linked, resolve=True) == own
    linked.a = 9
    found = OmegaConf.to_container(linked, resolve=True)
    assert (found["b"], found["c"], found["d"], found["f"]["g"], found[3]) == (9, 2, [9, {"e": 1}], 1, 9)
    assert found["h"] == {"a": 1}, "it never had this value"


def test_a_list_that_has_another_length_stays():
    linked = interpolation.restore(OmegaConf.create({"a": 1, "b": [1, 1]}), {"b": ["${a}"]})
    assert OmegaConf.to_container(linked) == {"a": 1, "b": [1, 1]}


def test_the_paths_are_those_of_the_current_start():
    own = {"paths": {"output_dir": "/old/run", "root_dir": "/old", "data_dir": "/old/data"}, "file": "/old/run/x"}
    composed = {"paths": {"data_dir": "${paths.root_dir}/data"}, "file": "${paths.output_dir}/x"}
    linked = OmegaConf.to_container(interpolation.restore(OmegaConf.create(own), composed))
    assert linked["paths"]["output_dir"] == "${hydra:runtime.output_dir}"
    assert linked["paths"]["data_dir"] == "${paths.root_dir}/data"
    assert linked["file"] == "${paths.output_dir}/x"


@pytest.mark.parametrize(
    ("source", "harmless"),
    [
        *(("${a.b}", True), ("${.a}/x", True), ("${..a[0]}", True), ("${oc.env:HOME,.}", True), ("plain", True)),
        *(("${job_dir:${hydra.job.name}}", True), ("${now:%Y}", True), ("${oc.select:a,${b}}", True)),
        *(("${eval:1}", False), ("${ eval : 1}", False), ("${a}${eval:1}", False), ("${oc.env:${eval:1}}", False)),
        *(("${oc.decode:'${a}{eval:1}'}", False), ("${oc.create:${a}}", False), ("${oc.dict.values:a}", True)),
        *(("${${a}:1}", False), ("${oc.${a}:1}", False), ("${now${a}:1}", False)),
    ],
)
def test_resolvers_of_a_project_are_not_called_for_a_run_directory(source, harmless):
    assert resolvers.is_harmless(source) == harmless
    assert (interpolation.without_calls({"a": [source]}) == {"a": [source]}) == harmless
