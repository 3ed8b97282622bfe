"""Analytic unlearning [Tang 2025]: the read-out is a ridge regression, out of which examples are taken exactly.

See `recon.unlearning.readout`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from deepinv.models import Reconstructor

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.readout import Statistics, find_readout, readout_weights, set_readout, statistics
from recon.unlearning.registry import register
from recon.unlearning.tensor_files import read_tensors, write_tensors

_FORMAT = "recon readout"


@dataclass(frozen=True, eq=False)
class AnalyticReadout:
    """What a network with a read-out fitted by ridge regression must keep, to forget any of its examples later.

    Parameters
    ----------
    layer
        Name of the read-out.
    statistics
        Of all that is known now.
    penalty
        Of the ridge regression, for the mean over examples.
    """

    layer: str
    statistics: Statistics
    penalty: float

    def forget(self, model: Reconstructor, examples: Examples, budget: Budget) -> AnalyticReadout:
        """Take examples out, and set the read-out of the network, which is changed in place.

        Parameters
        ----------
        model
            The network that was fitted, with its read-out as it is or was: other weights must not have changed.
        examples
            What is forgotten, as it was when it was learned.
        budget
            Its seed and objective are those of the fit.

        Raises
        ------
        DataError
            Examples that are not known, or not any more.
        """
        left = AnalyticReadout(
            self.layer, self.statistics - statistics(model, examples, self.layer, budget), self.penalty
        )
        left.apply(model)
        return left

    def apply(self, model: Reconstructor) -> None:
        """Set the read-out of the network to the solution.

        Raises
        ------
        OptionError
            Another network's read-out.
        """
        if readout_weights(model, self.layer).shape != self.statistics.moment.shape:
            raise OptionError(
                "these are the statistics of another network",
                found=f"{len(readout_weights(model, self.layer))} weights in {self.layer}",
                expected=len(self.statistics.moment),
            )
        set_readout(model, self.layer, self.statistics.solve(self.penalty))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write them, ``NAME.safetensors``, for the next request.

        Raises
        ------
        OutputError
            The file exists, or cannot be written.
        """
        told = {
            "layer": self.layer,
            "penalty": repr(self.penalty),
            "digests": json.dumps(sorted(self.statistics.digests)),
        }
        tensors = {"gram": self.statistics.gram, "moment": self.statistics.moment}
        write_tensors(path, _FORMAT, tensors, told, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> AnalyticReadout:
        """Read them.

        Raises
        ------
        CheckpointError
            No such file, or another kind of file.
        """
        tensors, told = read_tensors(path, _FORMAT)
        known = Statistics(tensors["gram"], tensors["moment"], frozenset(json.loads(told["digests"])))
        return cls(told["layer"], known, float(told["penalty"]))


def fit_readout(model: Reconstructor, examples: Examples, budget: Budget, *, penalty: float = 1e-2) -> AnalyticReadout:
    """Fit the read-out of a network, which is changed in place, to examples by ridge regression.

    Parameters
    ----------
    model
        Any network with a read-out.
    examples
        All that it is to know.
    budget
        Its objective says whether there are targets, its seed which measurements are predicted where there are none.
    penalty
        Of the ridge regression.
    """
    name = find_readout(model, examples.batch([0]))
    fitted = AnalyticReadout(name, statistics(model, examples, name, budget), penalty)
    fitted.apply(model)
    return fitted


@register("analytic", search={"penalty": (1e-3, 1e-1, 10.0, 1e3)})
def analytic(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    penalty: float = 1e-2,
    fitted: AnalyticReadout | None = None,
) -> Reconstructor:
    """Take what is forgotten out of the read-out, exactly; the features before it stay as they are.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods. Targets count if the budget's objective needs them.
    penalty
        Of the ridge regression; that of ``fitted`` where there is one.
    fitted
        What the fit of the network kept (`fit_readout`): the retain set is then not looked at. Without it the read-out
        is fitted anew to the retain set, which is the same where that is all that is kept.
    """
    with torch.no_grad():
        if fitted is not None:
            fitted.forget(model, forget, budget)
        else:
            fit_readout(model, retain, budget, penalty=penalty)
    return model.eval()
