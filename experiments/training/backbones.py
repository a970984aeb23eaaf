"""Builders of models from a run's settings: a function for each name of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from experiments.data import Interactions
from experiments.errors import ArgumentError
from experiments.inputs.layout import steps_per_epoch
from experiments.settings import Settings
from experiments.training.graphs import neighbour_graph, user_item_graph
from experiments.training.teachers import load_teacher
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
from models.layers.losses import PAIRWISE
from models.student import DKD, HTD, KD, RKD, Method


def gru4rec(s: Settings, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """Builds a GRU4Rec whose state is as wide as the embeddings."""
    return GRU4Rec(data.num_items, hidden_dim=s.model.dim, **_own(s), rngs=rngs)


def sasrec(s: Settings, data: Interactions, rngs: nnx.Rngs) -> SASRec:
    """Builds a SASRec, or the student of a teacher."""
    options: dict[str, Any] = {"max_len": s.training.max_len, **_own(s)}
    if s.distillation.method == "none":
        return SASRec(data.num_items, **options, rngs=rngs)
    teacher = load_teacher(s, data)
    method = make_method(s, data, teacher, rngs)
    return Student(data.num_items, teacher, method, **options, rngs=rngs)


def bert4rec(s: Settings, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """Builds a BERT4Rec."""
    return BERT4Rec(data.num_items, max_len=s.training.max_len, **_own(s), rngs=rngs)


def stosa(s: Settings, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """Builds a STOSA, as its paper defines it or as its published code behaves."""
    return STOSA(data.num_items, max_len=s.training.max_len, **_own(s), rngs=rngs)


def mf_bpr(s: Settings, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """Builds an MF-BPR; the optimiser decides whether users are smoothed too."""
    return MFBPR(data.num_users, data.num_items, **_own(s), rngs=rngs)


def lightgcn(s: Settings, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """Builds a LightGCN on users and their training items."""
    if s.training.loss not in PAIRWISE:
        known = " or ".join(PAIRWISE)
        raise ArgumentError("loss", f"lightgcn is trained by {known}, got {s.training.loss}")
    return LightGCN(user_item_graph(data), data.num_users, data.num_items, **_own(s), rngs=rngs)


def sr_gnn(s: Settings, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """Builds an SR-GNN."""
    return SRGNN(data.num_items, **_own(s), rngs=rngs)


def lessr(s: Settings, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """Builds a LESSR as its authors define it."""
    return LESSR(data.num_items, **_own(s), rngs=rngs)


def maerec(s: Settings, data: Interactions, rngs: nnx.Rngs) -> Backbone:
    """Builds a MAERec on the items that stand near each other in training."""
    graph = neighbour_graph(data)
    return MAERec(data.num_items, graph, max_len=s.training.max_len, **_own(s), rngs=rngs)


def _own(s: Settings) -> dict[str, Any]:
    """Returns the model's own settings and the loss, as its constructor takes them."""
    return {**dataclasses.asdict(s.model), "loss": s.training.loss}


def make_method(s: Settings, data: Interactions, teacher: SASRec, rngs: nnx.Rngs) -> Method:
    """Builds the method of distillation that the settings name."""
    d = s.distillation
    match d.method:
        case "kd":
            return KD(weight=d.kd_weight, temperature=d.temperature)
        case "rkd":
            return RKD(distance_weight=d.distance_weight, angle_weight=d.angle_weight)
        case "dkd":
            return DKD(
                target_weight=d.target_weight,
                others_weight=d.others_weight,
                temperature=d.temperature,
            )
        case "htd":
            return HTD(
                s.model.dim,
                teacher.item_embedding.features,
                num_groups=d.num_groups,
                weight=d.htd_weight,
                topology=d.topology,
                num_steps=s.training.epochs * steps_per_epoch(s.training, data, "next"),
                rngs=rngs,
            )
        case "none":
            raise ValueError("a run without distillation has no method")


BUILDERS: dict[str, Callable[[Settings, Interactions, nnx.Rngs], Backbone]] = {
    "mf-bpr": mf_bpr,
    "gru4rec": gru4rec,
    "sasrec": sasrec,
    "bert4rec": bert4rec,
    "stosa": stosa,
    "lightgcn": lightgcn,
    "sr-gnn": sr_gnn,
    "lessr": lessr,
    "maerec": maerec,
}
