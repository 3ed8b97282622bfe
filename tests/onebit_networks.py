"""Small networks with weights of few levels, for the tests of one-bit weights."""

from __future__ import annotations

import torch
from torch import nn

from recon.models.lista import LISTA
from recon.onebit import Quantisation, quantise

LAYERS = ("layers.*.weight",)
LEVELS = ("one-bit", "ternary", "8-bit", "full")


def lista(levels: str | None = "one-bit", *, m: int = 16, n: int = 32, layers: int = 3, **options: object) -> LISTA:
    """A network with random matrices, quantised unless ``levels`` is None."""
    model = LISTA(m, n, layers)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.copy_(0.1 * torch.randn(n, m, generator=generator))
    if levels is not None:
        quantise(model, Quantisation(patterns=LAYERS, levels=levels, **options))
    return model.eval()


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [layer.weight.detach() for layer in model.layers]
