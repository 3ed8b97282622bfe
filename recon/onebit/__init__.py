"""Networks whose weights take one bit a link, or less where zeros are known beforehand.

>>> from recon.models.lista import LISTA
>>> from recon.onebit import Quantisation, count_links, quantise
>>> model = LISTA(150, 300, 16)
>>> quantise(model, Quantisation(patterns=("layers.*.weight",)))
>>> round(count_links(model).per_link, 4)
1.0007

The body of [1]_ was not at hand: this is our reading of its abstract. A matrix is a scale times signs, with one scale
for the whole network; zeros are those of the problem's structure, known before training and never stored; training goes
on with real weights until the signs are taken, then with gradients passed straight through. `recon train` does it with
``--model.quantisation``, and `recon.checkpoint.save_checkpoint` packs the signs.

References
----------
.. [1] Eamaz, Yeganegi, Soltanalian, Physics-inspired binary neural networks: interpretable compression with theoretical
   guarantees, arXiv 2502.01908.
"""

from recon.onebit.count import Links, count_links, payload_bits
from recon.onebit.integers import integer_inference
from recon.onebit.network import (
    Quantisation,
    QuantisedWeight,
    drop_frozen_gradients,
    follow,
    quantise,
    quantised_weights,
    remove,
    set_stage,
    to_step,
)
from recon.onebit.quantiser import Quantiser, Scale

__all__ = [
    "Links",
    "Quantisation",
    "QuantisedWeight",
    "Quantiser",
    "Scale",
    "count_links",
    "drop_frozen_gradients",
    "follow",
    "integer_inference",
    "payload_bits",
    "quantise",
    "quantised_weights",
    "remove",
    "set_stage",
    "to_step",
]
