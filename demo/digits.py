"""A classifier of handwritten digits: one hidden layer, and softmax over ten classes."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

HIDDEN = 96
BATCH = 50
EPOCHS = 60
RATE = 0.05
MOMENTUM = 0.9


class Data(NamedTuple):
    """Images as rows of 64 pixels from 0 to 1, and the digits they show."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class Training(NamedTuple):
    """The loss of each step, a row an epoch; seconds; log-probabilities of the test images."""

    losses: np.ndarray
    seconds: float
    logp: np.ndarray

    def accuracy(self, data: Data) -> float:
        """The share of the test images that are taken for what they are."""
        return float((self.logp.argmax(-1) == data.test_labels).mean())


def load() -> Data:
    """The 1797 scanned digits of scikit-learn, 8 by 8 pixels; a quarter for testing."""
    digits = load_digits()
    order = np.random.default_rng(1).permutation(len(digits.data))
    pixels, labels = digits.data[order] / 16.0, digits.target[order]
    cut = len(pixels) * 3 // 4
    return Data(pixels[:cut], labels[:cut], pixels[cut:], labels[cut:])


def train(data: Data, library: Any, name: str) -> Training:
    """Train with the log_softmax and log_softmax_backward of `library`; all else is the same."""
    rng = np.random.default_rng(2)
    weights = [
        rng.standard_normal((64, HIDDEN)) / 8,
        np.zeros(HIDDEN),
        rng.standard_normal((HIDDEN, 10)) / np.sqrt(HIDDEN),
        np.zeros(10),
    ]
    velocities = [np.zeros_like(w) for w in weights]
    rows = np.arange(BATCH)
    losses = []
    start = time.perf_counter()
    for _ in tqdm(range(EPOCHS), desc=f"training with {name:8}", unit="epoch"):
        batches = rng.permutation(len(data.train))
        for batch in batches[: len(batches) // BATCH * BATCH].reshape(-1, BATCH):
            x, labels = data.train[batch], data.train_labels[batch]
            hidden = np.maximum(x @ weights[0] + weights[1], 0)
            logp = library.log_softmax(hidden @ weights[2] + weights[3])
            losses.append(-logp[rows, labels].mean())

            grad_logp = np.zeros_like(logp)
            grad_logp[rows, labels] = -1 / BATCH
            grad = library.log_softmax_backward(grad_logp, logp)
            grad_hidden = (grad @ weights[2].T) * (hidden > 0)
            gradients = [x.T @ grad_hidden, grad_hidden.sum(0), hidden.T @ grad, grad.sum(0)]
            for w, v, g in zip(weights, velocities, gradients, strict=True):
                v *= MOMENTUM
                v -= RATE * g
                w += v
    seconds = time.perf_counter() - start
    hidden = np.maximum(data.test @ weights[0] + weights[1], 0)
    logp = library.log_softmax(hidden @ weights[2] + weights[3])
    return Training(np.reshape(losses, (EPOCHS, -1)), seconds, logp)
