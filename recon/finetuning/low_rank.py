r"""Low-rank adapters [Hu 2022]: of each matrix or kernel only :math:`W + B A`, of small rank, is trained."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recon.physics.errors import OptionError


class LowRank(nn.Module):
    """Adds ``B A`` to a weight seen as a matrix (out, in x kernel); B starts at 0, so that nothing changes at first."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        start = torch.randn(rank, columns, generator=generator, dtype=weight.dtype) / columns**0.5
        self.a = nn.Parameter(start.to(weight.device))
        self.b = nn.Parameter(torch.zeros(rows, rank, dtype=weight.dtype, device=weight.device))

    def forward(self, weight: Float[Tensor, "out ..."]) -> Float[Tensor, "out ..."]:
        """Return the adapted weight."""
        return weight + (self.b @ self.a).view_as(weight)


def add_adapters(model: nn.Module, rank: int, *, seed: int = 0) -> int:
    """Freeze a network and give all its matrices and kernels adapters; return the number of weights that are trained.

    A weight whose smaller side is not above the rank is left frozen, for it has nothing to save.

    Raises
    ------
    OptionError
        A rank below 1, or above what any weight of the network takes.
    """
    if rank < 1:
        raise OptionError("adapters have a rank of at least 1", found=rank)
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    places = [
        (module, name)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if _suits(module, p, rank)
    ]
    if not places:
        raise OptionError("no weight of this network takes adapters of this rank", found=rank, cure="Lower the rank")
    for module, name in places:
        parametrize.register_parametrization(module, name, LowRank(getattr(module, name), rank, generator))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def merge_adapters(model: nn.Module) -> None:
    """Write adapted weights, where there are any, in the place of the old ones; all weights can be trained again."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrizations = module.parametrizations
            assert isinstance(parametrizations, nn.ModuleDict)
            for name, added in list(parametrizations.items()):
                assert isinstance(added, parametrize.ParametrizationList)
                if isinstance(added[0], LowRank):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    model.requires_grad_(True)


def _suits(module: nn.Module, parameter: nn.Parameter, rank: int) -> bool:
    if isinstance(module, nn.ParameterList | nn.ParameterDict | parametrize.ParametrizationList):
        return False  # the last: weights that are made of others already, as those of one bit
    if parameter.ndim < 2 or not parameter.is_floating_point():
        return False
    return min(parameter.shape[0], parameter[0].numel()) > rank
