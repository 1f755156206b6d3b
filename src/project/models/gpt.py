"""Decides what a decoder-only transformer is here: that of GPT-2, with biases as an option."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cairn.errors import ModelError


class GPT(nn.Module):
    """Logits of the next token at every place.

    A. Radford et al., "Language models are unsupervised multitask learners", 2019: normalization before
    attention and before the MLP, one more at the end, learned positions, the embedding used again as the last
    layer, and weights from N(0, 0.02), where those of the two layers that end a residual branch are divided
    by sqrt(2 * num_layers).

    Args:
        vocab_size: different tokens; 256 for bytes. seq_len: tokens of the longest input. num_layers: blocks.
        num_heads: of attention in each block; has to divide `embed_dim`. embed_dim: width of the residual
        stream. dropout: probability that a unit (of embeddings, attention, branches) is zeroed while
        training. bias: of linear layers and normalization, as in GPT-2; without it the model is a bit faster
        and as good.

    Raises:
        ValueError: if `num_heads` does not divide `embed_dim`.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        seq_len: int = 128,
        num_layers: int = 2,
        num_heads: int = 2,
        embed_dim: int = 64,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ModelError(f"num_heads={num_heads} has to divide embed_dim={embed_dim}.")
        self.seq_len = seq_len
        self.tokens = nn.Embedding(vocab_size, embed_dim)
        self.positions = nn.Embedding(seq_len, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, dropout, bias) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim, bias=bias)
        self._initialize()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 (batch, length), length <= seq_len, to logits (batch, length, vocab_size).

        Raises:
            ValueError: if the input is longer than `seq_len`.
        """
        length = tokens.shape[1]
        if length > self.seq_len:
            raise ValueError(f"The input has {length} tokens, but seq_len={self.seq_len} is the most.")
        places = torch.arange(length, device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.positions(places))
        for block in self.blocks:
            x = block(x)
        # Tied: no second parameter of the same numbers, so a checkpoint holds them once.
        return F.linear(self.norm(x), self.tokens.weight)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Block):
                for last in (module.attention.out, module.out):
                    nn.init.normal_(last.weight, std=0.02 / (2 * len(self.blocks)) ** 0.5)


class Block(nn.Module):
    """Attention and an MLP of four times the width, each added to what goes in; (batch, length,
    embed_dim)."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(embed_dim, bias=bias)
        self.attention = CausalAttention(embed_dim, num_heads, dropout, bias)
        self.norm_mlp = nn.LayerNorm(embed_dim, bias=bias)
        self.hidden = nn.Linear(embed_dim, 4 * embed_dim, bias=bias)
        self.out = nn.Linear(4 * embed_dim, embed_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        x = x + self.dropout(self.attention(self.norm_attention(x)))
        hidden = F.gelu(self.hidden(self.norm_mlp(x)), approximate="tanh")
        return x + self.dropout(self.out(hidden))


class CausalAttention(nn.Module):
    """Multi-head attention of every place to itself and to those before it; (batch, length, embed_dim)."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.out = nn.Linear(embed_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        batch, length, embed_dim = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, self.num_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, embed_dim / heads)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, embed_dim))
        return out
