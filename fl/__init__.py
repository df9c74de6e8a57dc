"""Federated learning over the Flower Protocol: messages, server, client, strategies, workloads."""
