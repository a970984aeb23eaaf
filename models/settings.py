"""The settings of every model: small dataclasses whose fields are arguments of its constructor.

They need neither JAX nor Flax, so that a command can show them at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Loss = Literal["bce", "bpr", "gbce", "softmax", "sampled-softmax"]
"""The names of the losses in `models.layers.losses`."""


class Range(NamedTuple):
    """The values that a setting may have, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


COUNT = Range("at least 1", lambda value: value >= 1)
FROM_0 = Range("at least 0", lambda value: 0 <= value < math.inf)
ABOVE_0 = Range("above 0", lambda value: 0 < value < math.inf)
RATE = Range("in [0, 1)", lambda value: 0 <= value < 1)
SHARE = Range("in (0, 1]", lambda value: 0 < value <= 1)
MIXTURE = Range("in [0, 1]", lambda value: 0 <= value <= 1)


def setting(default: Any, meaning: str, within: Range | None = None, **metadata: Any) -> Any:
    """Makes a field of a dataclass of settings.

    Args:
        default: the value, which data sets may override.
        meaning: the sentence that explains the setting to users.
        within: the range of its values; ``None`` allows every value.
        metadata: more entries for the field's metadata.
    """
    metadata |= {"help": meaning, "within": within}
    return dataclasses.field(default=default, metadata=metadata)


_DIM = "Width of the embeddings and of the model."
_HEADS = "Attention heads."
_BLOCKS = "Transformer blocks."
_DROPOUT = "Dropout of embeddings, attention and layers."
_LAYERS_DROPOUT = "Dropout of embeddings and layers."
_ATTENTION_DROPOUT = "Dropout of the attention probabilities."


@dataclasses.dataclass(frozen=True)
class MFBPRSettings:
    """The settings of `models.MFBPR`."""

    dim: int = setting(64, "Width of the embeddings.", COUNT)


@dataclasses.dataclass(frozen=True)
class GRU4RecSettings:
    """The settings of `models.GRU4Rec`."""

    dim: int = setting(64, _DIM, COUNT)
    dropout_rate: float = setting(0.4, _LAYERS_DROPOUT, RATE)
    one_pass: bool = setting(
        False, "Whether a user's items are one training row, and not a row for each beginning."
    )


@dataclasses.dataclass(frozen=True)
class SASRecSettings:
    """The settings of `models.SASRec`."""

    dim: int = setting(64, _DIM, COUNT)
    num_heads: int = setting(1, _HEADS, COUNT)
    num_blocks: int = setting(2, _BLOCKS, COUNT)
    dropout_rate: float = setting(0.3, _DROPOUT, RATE)
    attend_padding: bool = setting(False, "Whether padding takes part in attention.")


@dataclasses.dataclass(frozen=True)
class BERT4RecSettings:
    """The settings of `models.BERT4Rec`."""

    dim: int = setting(64, _DIM, COUNT)
    num_heads: int = setting(4, _HEADS, COUNT)
    num_blocks: int = setting(2, _BLOCKS, COUNT)
    dropout_rate: float = setting(0.2, _DROPOUT, RATE)
    mask_rate: float = setting(0.5, "Share of the items that are masked.", SHARE)


@dataclasses.dataclass(frozen=True)
class STOSASettings:
    """The settings of `models.STOSA`."""

    dim: int = setting(64, _DIM, COUNT)
    num_heads: int = setting(4, _HEADS, COUNT)
    num_blocks: int = setting(1, _BLOCKS, COUNT)
    dropout_rate: float = setting(0.2, _LAYERS_DROPOUT, RATE)
    attention_dropout_rate: float = setting(0.5, _ATTENTION_DROPOUT, RATE)
    pvn_weight: float = setting(
        0.005, "Weight of the distance between positive and negative item.", FROM_0
    )
    published: bool = setting(
        False, "Let the means pass the blocks unchanged, as the published code does."
    )


@dataclasses.dataclass(frozen=True)
class LightGCNSettings:
    """The settings of `models.LightGCN`."""

    dim: int = setting(64, "Width of the embeddings.", COUNT)
    num_blocks: int = setting(3, "Graph layers.", COUNT)
    l2: float = setting(5e-4, "Weight in the loss of the squares of a batch's embeddings.", FROM_0)


@dataclasses.dataclass(frozen=True)
class SRGNNSettings:
    """The settings of `models.SRGNN`."""

    dim: int = setting(64, _DIM, COUNT)


@dataclasses.dataclass(frozen=True)
class LESSRSettings:
    """The settings of `models.LESSR`."""

    dim: int = setting(64, _DIM, COUNT)
    num_blocks: int = setting(3, "Graph layers.", COUNT)
    dropout_rate: float = setting(0.2, _LAYERS_DROPOUT, RATE)


@dataclasses.dataclass(frozen=True)
class MAERecSettings:
    """The settings of `models.MAERec`."""

    dim: int = setting(64, _DIM, COUNT)
    num_heads: int = setting(4, _HEADS, COUNT)
    num_blocks: int = setting(2, _BLOCKS, COUNT)
    dropout_rate: float = setting(0.2, _LAYERS_DROPOUT, RATE)
    attention_dropout_rate: float = setting(0.3, _ATTENTION_DROPOUT, RATE)
    recon_weight: float = setting(
        5e-3, "Weight of the loss of restoring masked edges, in [0, 1].", MIXTURE
    )
    l2: float = setting(1e-8, "Weight in the loss of the squares of all weights.", FROM_0)
