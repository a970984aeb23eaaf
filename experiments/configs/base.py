"""What can be configured, for every model."""

from __future__ import annotations

import dataclasses

OPTIMIZERS = ("adam", "adamw", "sevo-adamw")


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """Settings of one run. The defaults are those of SASRec with SEvo on Amazon Beauty."""

    epochs: int = 200
    """Passes over the users."""
    batch_size: int = 512
    """Users of a step."""
    max_len: int = 50
    """Newest items of a user that the model reads."""
    dim: int = 64
    """Width of the embeddings and of the model."""
    num_heads: int = 1
    """Attention heads."""
    num_blocks: int = 2
    """Transformer blocks."""
    dropout_rate: float = 0.3
    """Dropout of embeddings, attention and feed-forward layers."""
    learning_rate: float = 1e-3
    """Step size."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.98
    """Decay of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay; for adam, the coefficient of a coupled L2 term."""
    beta: float = 0.99
    """SEvo: degree of smoothness, in [0, 1)."""
    num_layers: int = 3
    """SEvo: sparse products of a smoothing."""
    max_len_graph: int = 50
    """SEvo: newest training items of a user that make edges."""
    eval_every: int = 5
    """Epochs between validations."""
    packed: bool = True
    """Whether short sequences share rows."""
