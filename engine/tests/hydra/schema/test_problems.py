"""What is wrong with a configuration, with the name that was probably meant."""

import pytest
from omegaconf import OmegaConf

from cairn.hydra.schema import problems

TEXT = """
task_name: x
optimized_metric: null
own_key: 3
model:
  _target_: torch.nn.Linear
  in_features: ${own_key}
  out_features: 2
trainer: {_target_: lightning.pytorch.Trainer, max_epochs: 1, elastic: samples}
checkpoint:
  dirpath: ${hydra:runtime.output_dir}/checkpoints
  save_interval: 5
  mine: 7
  triggers: {own: {_target_: cairn.Every, interval: "${checkpoint.mine}"}}
"""


def found(more):
    return [item.message for item in problems.find(OmegaConf.merge(OmegaConf.create(TEXT), OmegaConf.create(more)))]


def test_a_good_configuration_has_no_problems():
    assert found("{}") == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("model: {biass: true}", "model.biass: Linear has no argument biass. Did you mean model.bias?"),
        ("model: {xyz: 1}", "model.xyz: Linear has no argument xyz."),
        (
            "model: {net: {_target_: torch.optim.AdamW, _partial_: true, betass: 1}}",
            "model.net.betass: AdamW has no argument betass. Did you mean model.net.betas?",
        ),
        ("trainer: {max_epoch: 3}", "trainer.max_epoch: Trainer has no argument max_epoch. Did you mean trainer."),
        (
            "checkpoint: {save_intervall: 3}",
            "checkpoint.save_intervall: nothing reads this key. Did you mean checkpoint.save_interval?",
        ),
        ("checkpoint: {artifacts: {wich: all}}", "Did you mean checkpoint.artifacts.which?"),
        ("optimised_metric: a", "optimised_metric: the library does not read this key. Did you mean optimized_metric?"),
        ("data: {_target_: torch.nn.Linear, in_features: 1}", "data: Linear needs out_features."),
        ("model: {_target_: torch.nn.Linaer}", "Did you mean torch.nn.Linear?"),
        ("model: {_target_: torch.optim.adamww.AdamW}", "Did you mean torch.optim.adamw?"),
        ("model: {_target_: os.system}", "a configuration may not call the standard library"),
        (
            "model: {in_features: '${own_kay}'}",
            "model.in_features: ${own_kay} refers to a key that does not exist. Did you mean own_key?",
        ),
        (
            "data: {_target_: torch.nn.Linear, in_features: 1, out_features: '???'}",
            "data.out_features: it has to be set.",
        ),
    ],
)
def test_a_problem_is_named(more, message):
    messages = found(more)
    assert any(message in item for item in messages), messages


@pytest.mark.parametrize(
    "more",
    [
        "model: {bias: '${oc.env:HOME}'}",
        "data: {_target_: torch.optim.AdamW, _partial_: true, lr: 1}",
        "{seeds: [1, 2], my: {own: group}}",
        "logger: {csv: {_target_: cairn.CSVLogger}}",
        "model: null",
        "model: {_target_: '${own_key}'}",
    ],
)
def test_what_may_be_right_is_not_a_problem(more):
    assert found(more) == []
