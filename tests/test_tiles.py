"""Tiles: exactly blended, of the right measurements, and no larger in memory than they must be."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from deepinv.models import Reconstructor

from recon.physics import Blur, Demosaicing, Denoising, Inpainting, ParallelCT, SuperResolution
from recon.physics.errors import OptionError, ShapeError
from recon.physics.kernels import gaussian_kernel, motion_kernel
from recon.tiles import is_local, reconstruct_tiled, spans


class Identity(Reconstructor):
    """Returns its measurements, and remembers how large they were."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, y, physics):
        self.seen.append(tuple(y.shape[2:]))
        return y


class Truth(Reconstructor):
    """Knows the image: finds the window whose measurements it was given, and checks the operator that came along."""

    def __init__(self, x, margin=0):
        super().__init__()
        self.x, self.margin, self.error = x, margin, 0.0

    def forward(self, y, physics):
        h, w = physics.img_size[-2:]
        top, left = self.window
        part = self.x[..., top : top + h, left : left + w]
        inner = (..., *(slice(self.margin, n - self.margin) for n in y.shape[2:]))
        self.error = max(self.error, float((physics.A(part) - y)[inner].abs().max()))
        return part


@pytest.mark.parametrize(("n", "tile", "overlap"), [(100, 32, 8), (101, 32, 16), (33, 32, 8), (32, 32, 8), (7, 32, 8)])
@pytest.mark.parametrize("multiple", [1, 3, 4])
def test_spans_cover_an_axis_and_sum_to_one(n, tile, overlap, multiple):
    found = spans(n, tile, overlap, multiple)
    total = torch.zeros(n, dtype=torch.float64)
    for span in found:
        total[span.start : span.stop] += span.weight
        assert span.start % multiple == 0
        assert span.stop - span.start <= tile + multiple
        assert float(span.weight.min()) >= 0
    torch.testing.assert_close(total, torch.ones(n, dtype=torch.float64))
    assert found[0].start == 0
    assert found[-1].stop == n
    for before, after in pairwise(found):  # the outer quarter of an overlap saw too little
        assert not after.weight[: overlap // 4].any()
        assert not before.weight[len(before.weight) - overlap // 4 :].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_identity_gives_back_what_it_got(dtype, generator):
    y = torch.randn(2, 3, 150, 97, dtype=dtype, generator=generator)
    model = Identity()
    torch.testing.assert_close(reconstruct_tiled(model, y, Denoising(), 48, 12), y)
    assert max(max(seen) for seen in model.seen) <= 48
    assert len(model.seen) > 6


@pytest.mark.parametrize("kind", ["inpainting", "demosaicing", "blur", "superresolution"])
def test_every_tile_gets_its_own_measurements(kind, generator, monkeypatch):
    x = torch.rand(1, 3, 90, 71, generator=generator)
    mask = (torch.rand(90, 71, generator=generator) < 0.5).float()
    physics = {
        "inpainting": lambda: Inpainting(mask, (3, 90, 71)),
        "demosaicing": lambda: Demosaicing((90, 71), "xtrans"),
        "blur": lambda: Blur(motion_kernel(7, 20.0), (3, 90, 71)),
        "superresolution": lambda: SuperResolution(3, (3, 90, 71), gaussian_kernel(1.0), padding="replicate"),
    }[kind]()
    model = Truth(x, margin=3 if kind == "superresolution" else 0)
    import recon.tiles

    plain = recon.tiles.cut

    def watched(y, physics, rows, columns):
        model.window = (rows.start, columns.start)
        return plain(y, physics, rows, columns)

    monkeypatch.setattr(recon.tiles, "cut", watched)
    torch.testing.assert_close(reconstruct_tiled(model, physics.A(x), physics, 40, 12), x)
    assert model.error < 1e-5


def test_what_is_local():
    assert is_local(Blur(gaussian_kernel(1.0)))
    assert not is_local(Blur(gaussian_kernel(1.0), padding="reflect"))
    assert not is_local(ParallelCT((1, 8, 8), 3))
    with pytest.raises(OptionError, match="cannot be cut"):
        reconstruct_tiled(Identity(), torch.zeros(1, 1, 12, 3), ParallelCT((1, 8, 8), 3), 8, 2)
    with pytest.raises(OptionError, match="twice as large"):
        reconstruct_tiled(Identity(), torch.zeros(1, 1, 64, 64), Denoising(), 16, 12)
    with pytest.raises(OptionError, match="smaller than the blur kernel"):
        reconstruct_tiled(Identity(), torch.zeros(1, 1, 64, 64), Blur(torch.ones(9, 9) / 81), 8, 2)
    with pytest.raises(ShapeError, match="changed the size"):
        reconstruct_tiled(Identity(), torch.zeros(1, 1, 64, 64), Blur(torch.ones(3, 3) / 9), 32, 8)


def test_a_tile_in_which_nothing_was_measured():
    mask = torch.ones(64, 64)
    mask[:33, :33] = 0
    with pytest.raises(OptionError, match="without a measured pixel"):
        reconstruct_tiled(Identity(), torch.zeros(1, 1, 64, 64), Inpainting(mask), 32, 8)
