"""A softmax classifier of handwritten digits, trained with one library's log_softmax or another's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

Array = np.ndarray[Any, np.dtype[Any]]

HIDDEN = 64
EPOCHS = 100
BATCH = 32
RATE = 0.3


@dataclass
class Data:
    """Images as rows of 64 pixels from 0 to 1, and their digits; the last fifth is for the test."""

    train: Array
    train_digits: Array
    test: Array
    test_digits: Array


@dataclass
class Run:
    """What a training gave."""

    losses: Array
    parameters: list[Array]
    seconds: float


def load() -> Data:
    """Return scikit-learn's bundled digits, shuffled."""
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, digits = pixels[order] / 16, digits[order]
    split = len(pixels) * 4 // 5
    return Data(pixels[:split], digits[:split], pixels[split:], digits[split:])


def _logits(pixels: Array, parameters: list[Array]) -> tuple[Array, Array]:
    weights, bias, weights_out, bias_out = parameters
    hidden = np.tanh(pixels @ weights + bias)
    return hidden, hidden @ weights_out + bias_out


def train(
    data: Data,
    log_softmax: Callable[[Array], Array],
    log_softmax_backward: Callable[[Array, Array], Array],
    step: Callable[[], object],
) -> Run:
    """Train 64 inputs -> tanh -> 10 logits on the cross-entropy, by stochastic gradient descent.

    All but the two functions is NumPy, and the same for everyone, the order of the batches included.
    `step` is called after each epoch.
    """
    rng = np.random.default_rng(1)
    parameters = [
        rng.standard_normal((64, HIDDEN)) / 8,
        np.zeros(HIDDEN),
        rng.standard_normal((HIDDEN, 10)) / 8,
        np.zeros(10),
    ]
    one_hot = np.eye(10)
    losses = []
    start = time.perf_counter()
    for _ in range(EPOCHS):
        order = rng.permutation(len(data.train))
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            pixels = data.train[batch]
            hidden, logits = _logits(pixels, parameters)
            log_probabilities = log_softmax(logits)
            grad_loss = one_hot[data.train_digits[batch]] / -len(batch)
            losses.append(np.vdot(grad_loss, log_probabilities))

            grad_logits = log_softmax_backward(grad_loss, log_probabilities)
            grad_hidden = (grad_logits @ parameters[2].T) * (1 - hidden * hidden)
            gradients = [
                pixels.T @ grad_hidden,
                grad_hidden.sum(0),
                hidden.T @ grad_logits,
                grad_logits.sum(0),
            ]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= RATE * gradient
        step()
    return Run(np.array(losses), parameters, time.perf_counter() - start)


def predict(data: Data, run: Run, softmax: Callable[[Array], Array]) -> Array:
    """Return the probabilities of the ten digits for each test image."""
    return softmax(_logits(data.test, run.parameters)[1])
