from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.hashing import tensor_bytes

Z = np.random.default_rng(0).standard_normal((2, 3, 2)).astype(np.float32).view(np.complex64)[..., 0]


@pytest.mark.parametrize(
    ("tensor", "array"),
    [
        (torch.from_numpy(Z), Z),
        (torch.from_numpy(Z).conj(), Z.conj()),
        (torch.from_numpy(Z).conj().imag, Z.conj().imag),
        (torch.from_numpy(Z.real).T, Z.real.T),
        (torch.tensor(3.0, requires_grad=True), np.float32(3)),
        (torch.tensor([True, False]), np.array([True, False])),
        (torch.zeros(0, 3), np.zeros((0, 3), np.float32)),
        (torch.tensor([1.0, -2.0], dtype=torch.bfloat16), np.array([0x3F80, 0xC000], np.uint16)),
    ],
)
def test_bytes_are_those_of_the_values_in_their_order(tensor, array):
    assert tensor_bytes(tensor) == array.tobytes()
