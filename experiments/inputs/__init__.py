"""Inputs of models: training and evaluation rows, laid out on the host, made on the devices."""
