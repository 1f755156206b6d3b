"""A decoder-only transformer in the style of GPT-2."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GPT(nn.Module):
    """Predicts the next token at every position.

    The architecture is that of A. Radford et al., "Language models are unsupervised multitask learners", 2019:
    layer normalization before attention, before the MLP and at the end; learned positions; the embedding is
    also the last layer. Weights start from N(0, 0.02); in the two layers that end a residual branch they are
    divided by sqrt(2 * num_layers).

    Args:
        vocab_size: Number of different tokens; 256 for bytes.
        seq_len: Maximum number of tokens of an input.
        num_layers: Number of blocks.
        num_heads: Attention heads of a block; must divide `embed_dim`.
        embed_dim: Width of the residual stream.
        dropout: Probability that a unit (of embeddings, attention, branches) is zeroed in training.
        bias: Use biases in linear layers and normalization, as GPT-2 does. Without them, the model is slightly
            faster and equally good.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`.
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
            raise ValueError(f"num_heads={num_heads} must divide embed_dim={embed_dim}.")
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
            ValueError: The input is longer than `seq_len`.
        """
        length = tokens.shape[1]
        if length > self.seq_len:
            raise ValueError(f"The input has {length} tokens, more than seq_len={self.seq_len}.")
        positions = torch.arange(length, device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.positions(positions))
        for block in self.blocks:
            x = block(x)
        # Tied weights: one parameter, so a checkpoint holds it once.
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
    """Attention and an MLP of four times the width, each with a residual connection."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(embed_dim, bias=bias)
        self.attention = CausalAttention(embed_dim, num_heads, dropout, bias)
        self.norm_mlp = nn.LayerNorm(embed_dim, bias=bias)
        self.hidden = nn.Linear(embed_dim, 4 * embed_dim, bias=bias)
        self.out = nn.Linear(4 * embed_dim, embed_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, embed_dim) to the same shape."""
        x = x + self.dropout(self.attention(self.norm_attention(x)))
        hidden = F.gelu(self.hidden(self.norm_mlp(x)), approximate="tanh")
        return x + self.dropout(self.out(hidden))


class CausalAttention(nn.Module):
    """Multi-head attention of each position to itself and to earlier ones."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.out = nn.Linear(embed_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, embed_dim) to the same shape."""
        batch, length, embed_dim = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, self.num_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, embed_dim / heads)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, embed_dim))
        return out
