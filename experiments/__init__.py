"""Joins the optimiser and the models: data sets, training, evaluation, tables and figures."""
