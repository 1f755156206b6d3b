"""The networks: shapes, initial weights, and the properties of each."""

import pytest
import torch
from tests.support.project import example

CNN = example("models.cnn").CNN
GPT = example("models.gpt").GPT
MLP = example("models.mlp").MLP


def num_parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("net", "in_channels"),
    [(MLP(64, [16, 8], 5), 1), (MLP(64, [], 5), 1), (CNN([4, 8], 5, in_channels=3), 3)],
)
def test_the_logits_of_images(net, in_channels):
    assert net(torch.zeros(7, in_channels, 8, 8)).shape == (7, 5)


def test_the_cnn_has_buffers_and_dropout():
    net = CNN([4, 8], 5, dropout=0.5)
    assert any("running_mean" in name for name, _ in net.named_buffers())
    x = torch.randn(4, 1, 8, 8)
    torch.manual_seed(0)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    return GPT(vocab_size=11, seq_len=6, num_layers=2, num_heads=2, embed_dim=8).eval()


def test_the_logits_of_tokens(gpt):
    for length in (1, 6):
        assert gpt(torch.zeros(3, length, dtype=torch.int64)).shape == (3, length, 11)


def test_no_position_depends_on_a_later_token(gpt):
    tokens = torch.randint(11, (1, 6))
    changed = tokens.clone()
    changed[0, 4] = (changed[0, 4] + 1) % 11
    before, after = gpt(tokens), gpt(changed)
    assert torch.allclose(before[0, :4], after[0, :4])
    assert not torch.allclose(before[0, 4:], after[0, 4:])


def test_the_embedding_is_tied_and_stored_once(gpt):
    assert "tokens.weight" in gpt.state_dict()
    assert num_parameters(gpt) == 11 * 8 + 6 * 8 + 2 * (12 * 8 * 8 + 2 * 8) + 8


def test_the_ends_of_residual_branches_start_smaller():
    torch.manual_seed(0)
    net = GPT(num_layers=8, embed_dim=64)
    for block in net.blocks:
        assert block.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
        assert block.attention.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
        assert block.hidden.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_it_scales_to_hundreds_of_millions_of_parameters():
    with torch.device("meta"):
        net = GPT(seq_len=1024, num_layers=24, num_heads=16, embed_dim=1024)
    assert 300e6 < num_parameters(net) < 310e6


def test_biases_are_optional():
    assert not any("bias" in name for name, _ in GPT().named_parameters())
    assert any("bias" in name for name, _ in GPT(bias=True).named_parameters())


def test_sizes_that_do_not_fit_are_refused(gpt):
    with pytest.raises(ValueError, match="num_heads=3 must divide embed_dim=64"):
        GPT(num_heads=3, embed_dim=64)
    with pytest.raises(ValueError, match="has 7 tokens, more than seq_len=6"):
        gpt(torch.zeros(1, 7, dtype=torch.int64))
