"""Which of two clouds of points is it from? Logistic regression by minibatches."""

import numpy as np

N_FEATURES = 20


def load_data(seed, n):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return rng.normal(size=(n, N_FEATURES)) + 0.8 * y[:, None], y


def batches(x, y, batch_size):
    return [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, len(x), batch_size)]


def train(weights, loader, epochs, lr):
    for _ in range(epochs):
        for x, y in loader:
            weights = weights - lr * x.T @ (1 / (1 + np.exp(-x @ weights)) - y) / len(y)
    return weights


def test(weights, x, y):
    p = np.clip(1 / (1 + np.exp(-x @ weights)), 1e-9, 1 - 1e-9)
    loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    return float(loss), float(np.mean((p > 0.5) == y))
