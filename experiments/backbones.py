"""From a run's settings to its model: a function for each name that ``--model`` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx

from experiments.configs import Hyperparameters
from experiments.data import Interactions
from experiments.epochs import training_sequences
from experiments.errors import UserError
from experiments.graphs import neighbour_graph, user_item_graph
from experiments.teachers import load_teacher
from models import (
    LESSR,
    MFBPR,
    SRGNN,
    STOSA,
    Backbone,
    BERT4Rec,
    GRU4Rec,
    LightGCN,
    MAERec,
    SASRec,
    Student,
)
from models.student import DKD, HTD, KD, RKD, Method


def gru4rec(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """A state as wide as the embeddings."""
    return GRU4Rec(
        data.num_items,
        dim=s.dim,
        hidden_dim=s.dim,
        dropout_rate=s.dropout_rate,
        loss=s.loss,
        rngs=rngs,
    )


def sasrec(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> SASRec:
    """SASRec, with padding masked or attended to."""
    return SASRec(data.num_items, **_sasrec_options(s), rngs=rngs)


def _sasrec_options(s: Hyperparameters) -> dict[str, Any]:
    return {
        "max_len": s.max_len,
        "dim": s.dim,
        "num_heads": s.num_heads,
        "num_blocks": s.num_blocks,
        "dropout_rate": s.dropout_rate,
        "attend_padding": s.attend_padding,
        "loss": s.loss,
    }


def bert4rec(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """BERT4Rec."""
    return BERT4Rec(
        data.num_items,
        max_len=s.max_len,
        dim=s.dim,
        num_heads=s.num_heads,
        num_blocks=s.num_blocks,
        dropout_rate=s.dropout_rate,
        loss=s.loss,
        rngs=rngs,
    )


def stosa(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """STOSA, as its paper defines it or as its published code behaves."""
    return STOSA(
        data.num_items,
        max_len=s.max_len,
        dim=s.dim,
        num_heads=s.num_heads,
        num_blocks=s.num_blocks,
        dropout_rate=s.dropout_rate,
        attention_dropout_rate=s.attention_dropout_rate,
        pvn_weight=s.pvn_weight,
        published=s.published,
        loss=s.loss,
        rngs=rngs,
    )


def mf_bpr(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """MF-BPR; whether users are smoothed too is the optimiser's business."""
    return MFBPR(data.num_users, data.num_items, dim=s.dim, loss=s.loss, rngs=rngs)


def lightgcn(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """LightGCN on users and their training items, from the authors' initial embeddings."""
    if s.loss not in ("bpr", "bce"):
        raise UserError(f"--loss: lightgcn is trained by bpr or bce, got {s.loss}")
    return LightGCN(
        user_item_graph(data),
        data.num_users,
        data.num_items,
        dim=s.dim,
        num_layers=s.num_blocks,
        l2=s.l2,
        loss=s.loss,
        rngs=rngs,
    )


def sr_gnn(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """SR-GNN, with cross-entropy or, as ``--loss bpr``, as the paper's runs probably were."""
    return SRGNN(data.num_items, dim=s.dim, loss=s.loss, rngs=rngs)


def lessr(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """LESSR as its authors define it."""
    return LESSR(
        data.num_items,
        dim=s.dim,
        num_layers=s.num_blocks,
        dropout_rate=s.dropout_rate,
        loss=s.loss,
        rngs=rngs,
    )


def maerec(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """MAERec on the items that stand near each other in training; its masks as published."""
    return MAERec(
        data.num_items,
        neighbour_graph(data),
        max_len=s.max_len,
        dim=s.dim,
        num_heads=s.num_heads,
        num_blocks=s.num_blocks,
        dropout_rate=s.dropout_rate,
        attention_dropout_rate=s.attention_dropout_rate,
        recon_weight=s.recon_weight,
        l2=s.l2,
        loss=s.loss,
        rngs=rngs,
    )


def sasrec_kd(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """A student of a teacher's scores."""
    method = KD(weight=s.kd_weight, temperature=s.temperature)
    return _student(load_teacher(s, data, sasrec), method, s, rngs)


def sasrec_rkd(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """A student of a teacher's distances and angles."""
    method = RKD(distance_weight=s.distance_weight, angle_weight=s.angle_weight)
    return _student(load_teacher(s, data, sasrec), method, s, rngs)


def sasrec_htd(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """A student of a teacher's topology, whose groups harden over the epochs of the run."""
    teacher = load_teacher(s, data, sasrec)
    sequences = training_sequences(data, s.max_len, "next")[0].size
    method = HTD(
        s.dim,
        teacher.item_embedding.features,
        num_groups=s.num_groups,
        weight=s.htd_weight,
        topology=s.topology,
        num_steps=s.epochs * -(-sequences // s.batch_size),
        rngs=rngs,
    )
    return _student(teacher, method, s, rngs)


def sasrec_dkd(s: Hyperparameters, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """A student of a teacher's scores, the target's and the others' apart."""
    method = DKD(
        target_weight=s.target_weight, others_weight=s.others_weight, temperature=s.temperature
    )
    return _student(load_teacher(s, data, sasrec), method, s, rngs)


def _student(teacher: SASRec, method: Method, s: Hyperparameters, rngs: nnx.Rngs) -> Backbone:
    return Student(teacher.num_items, teacher, method, **_sasrec_options(s), rngs=rngs)


BUILDERS: dict[str, Callable[[Hyperparameters, Interactions, nnx.Rngs], Backbone]] = {
    "mf-bpr": mf_bpr,
    "mf-bpr-user-item": mf_bpr,
    "gru4rec": gru4rec,
    "sasrec": sasrec,
    "sasrec-kd": sasrec_kd,
    "sasrec-rkd": sasrec_rkd,
    "sasrec-htd": sasrec_htd,
    "sasrec-dkd": sasrec_dkd,
    "bert4rec": bert4rec,
    "stosa": stosa,
    "lightgcn": lightgcn,
    "sr-gnn": sr_gnn,
    "lessr": lessr,
    "maerec": maerec,
}
