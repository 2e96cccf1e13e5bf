"""The demo's model: what a user writes. ``model(idim)`` gives a compiled Keras model for ``idim`` columns."""

from __future__ import annotations

from typing import Any

from keras import Sequential, layers


def model(idim: int) -> Any:
    """A small dense network, the probability of signal its one output."""
    network = Sequential(
        [
            layers.Input((idim,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(64, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    network.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return network
