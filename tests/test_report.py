"""The report: self-contained, safe, bounded in size, honest about what is missing."""

from __future__ import annotations

import base64
import math
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from recon.display import choose_slices, common_window, detail_box
from recon.figures import save_comparison, save_sampling, save_trust
from recon.physics.errors import OptionError, OutputError, ShapeError
from recon.report import write_report
from recon.report.figures_of_merit import merit
from recon.report.markup import Markup, element
from recon.report.pictures import Scale, data_uri
from recon.result import Result

EVIL = "<script>alert('x')</script>"


def make(n=1, shape=(40, 32), *, seed=0, maps=True, **fields):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.random((n, 2, *shape), dtype=np.float32))
    plane = torch.from_numpy(rng.random((n, *shape), dtype=np.float32))
    defaults = {
        "image": image,
        "uncertainty": 0.01 + 0.01 * plane if maps else None,
        "maps": {"g_factor": 1 + plane, "residual": 2 * plane, "mask": (plane > 0.5).float()} if maps else {},
        "metrics": {"hold_out_error": [0.1 + 0.01 * seed] * n, "data_residual": [1.0] * n},
        "provenance": {
            "input": {"path": "scan.h5", "sha256": "ab" * 32, "format": "fastmri", "shape": [n, 8, *shape]},
            "model": {"name": "tv"},
            "seconds": {"total": 2.0, "model": 1.0},
            "peak_memory_bytes": 300 * 2**20,
            "steps": ["whitened", "scaled"],
            "warnings": [],
        },
    }
    return Result(**{**defaults, **fields})


class Page(HTMLParser):
    """Collects tags with their attributes, and the text outside style and script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._inside = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("style", "script"):
            self.text.append(data)

    def images(self, **wanted):
        attributes = [a for tag, a in self.tags if tag == "img"]
        return [a for a in attributes if all(a.get(k.replace("_", "-")) == v for k, v in wanted.items())]


def decode(attributes):
    head, data = attributes["src"].split(",", 1)
    assert head == "data:image/png;base64"
    picture = Picture.open(BytesIO(base64.b64decode(data, validate=True)))
    picture.load()
    return picture


@pytest.fixture
def write(tmp_path):
    def write(results, **options):
        path = write_report(results, tmp_path / "report.html", overwrite=True, **options)
        return Page(path.read_text("utf-8")), path

    return write


def test_nothing_is_loaded_from_elsewhere(write):
    page, path = write({"tv": make(), "tgv": make(seed=1)})
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    text = path.read_text("utf-8")
    assert "url(" not in text
    assert "@import" not in text
    policy = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert policy[0].startswith("default-src 'none'")
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed")]


def test_every_picture_decodes_and_has_a_text_of_its_own(write):
    page, _ = write({"tv": make(2), "tgv": make(2, seed=1)})
    pictures = page.images()
    # 2 slices x (2 images + 1 difference + 2 noise + 2 g-factor + 2 residual + 2 masks) + 2 in the slider
    assert len(pictures) == 2 * 11 + 2
    for attributes in pictures:
        assert decode(attributes).size == (32, 40)
        assert attributes["alt"]
    gallery = page.images()
    assert len({(a["alt"]) for a in gallery}) == 22


def test_the_same_grey_means_the_same_value_in_all_methods(write):
    bright = make(image=torch.full((1, 1, 40, 32), 2.0))
    dark = make(image=torch.full((1, 1, 40, 32), 1.0))
    page, _ = write({"bright": bright, "dark": dark})
    levels = [np.asarray(decode(page.images(data_kind="image", data_method=m)[0])).max() for m in ("bright", "dark")]
    assert levels[0] == 255
    assert levels[1] == pytest.approx(255 / 1.5, abs=1)  # the window ends at the median, 1.5


def test_slider_has_both_pictures(write):
    page, _ = write({"tv": make(), "tgv": make(seed=1), "rss": make(seed=2)})
    ids = [a.get("id") for _, a in page.tags]
    left, right = ids.index("layer-left"), ids.index("layer-right")
    following = [page.tags[i + 1] for i in (left, right)]
    assert [(tag, a["data-method"]) for tag, a in following] == [("img", "rss"), ("img", "tv")]
    assert following[0][1]["src"] != following[1][1]["src"]
    options = [a["value"] for tag, a in page.tags if tag == "option"]
    assert options == ["tv", "tgv", "rss"] * 2
    assert "compare" in ids


def test_one_method_needs_no_slider_and_no_difference(write):
    page, _ = write({"tv": make()})
    ids = [a.get("id") for _, a in page.tags]
    assert "compare" not in ids
    assert "difference" not in ids
    assert page.images(data_kind="image")


def test_without_script_all_slices_are_there(write):
    page, path = write({"tv": make(3)})
    groups = [a for _, a in page.tags if a.get("class", "").startswith("slice") and "data-slice" in a]
    assert {a["data-slice"] for a in groups} == {"0", "1", "2"}
    assert not any("hidden" in a or "display" in a.get("style", "") for a in groups)
    # Only the class that a script sets hides anything.
    assert ".js .slice:not(.current)" in path.read_text("utf-8")
    assert all(a["src"].startswith("data:image/png") for a in page.images())


def test_text_from_files_is_escaped(write):
    result = make()
    result.provenance["input"]["path"] = f"/data/{EVIL}.h5"
    result.provenance["steps"] = [EVIL]
    result.provenance["warnings"] = [EVIL]
    result.provenance[EVIL] = {EVIL: [EVIL]}
    result.metrics[EVIL] = [1.0]
    page, path = write({EVIL: result, '"><img src=http://x>': make()}, title=EVIL)
    assert EVIL not in path.read_text("utf-8")
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert all(a["src"].startswith("data:") for a in page.images())
    assert EVIL in "".join(page.text)


@given(st.text(max_size=60))
def test_markup_gives_any_text_back(text):
    page = Page(element("p", text, title=text))
    assert "".join(page.text) == text.replace("\r\n", "\n").replace("\r", "\n") or "".join(page.text) == text
    assert page.tags[0][1]["title"] == text
    assert element("p", Markup("<b>")) == "<p><b></p>"


@pytest.mark.parametrize("n", [1, 200])
def test_size_is_bounded(write, n):
    page, path = write({"tv": make(n, (64, 64)), "tgv": make(n, (64, 64), seed=1)})
    shown = {a["data-slice"] for _, a in page.tags if "data-slice" in a}
    assert len(shown) == min(n, 9)
    assert path.stat().st_size < 2_000_000
    assert ("9 of 200 are in this page" in "".join(page.text)) == (n == 200)


def test_large_pictures_are_averaged_down(write):
    page, path = write({"tv": make(2, (1100, 700), maps=False)})
    assert decode(page.images()[0]).size == (233, 366)
    assert path.stat().st_size < 400_000


def test_averaging_keeps_the_mean():
    values = np.random.default_rng(0).random((1024, 1024)).astype(np.float32)
    picture = decode({"src": data_uri(values, Scale(0.0, 1.0))})
    assert picture.size == (512, 512)
    assert np.asarray(picture).mean() / 255 == pytest.approx(values.mean(), abs=2e-3)


def test_slices_bear_the_numbers_of_the_scan(write):
    result = make(3)
    result.provenance["slices"] = [7, 8, 20]
    page, _ = write({"tv": result})
    assert "Slice 20" in "".join(page.text)
    assert any("slice 8" in a["alt"] for a in page.images())


def test_without_maps_metrics_or_provenance(write):
    page, _ = write({"tv": make(maps=False, metrics={}, provenance={})})
    ids = {a.get("id") for _, a in page.tags}
    assert ids.isdisjoint({"noise", "g-factor", "residual", "mask", "figures"})
    assert len(page.images()) == 1


def test_slices_without_noise_map_say_so(write):
    result = make(3)
    result.uncertainty[[0, 2]] = math.nan
    page, _ = write({"tv": result})
    assert len(page.images(data_kind="noise")) == 1
    assert "".join(page.text).count("Not computed for this slice.") == 2


def test_slices_with_a_noise_map_are_chosen(write):
    result = make(100, (8, 8))
    keep = [3, 50, 97]
    lost = [i for i in range(100) if i not in keep]
    result.uncertainty[lost] = math.nan
    page, _ = write({"tv": result})
    assert len(page.images(data_kind="noise")) == 3


def test_the_slice_that_misses_its_data_most_is_shown(write):
    page, _ = write({"tv": make(100, (8, 8), metrics={"data_residual": [1.0] * 61 + [1.6] + [1.0] * 38})})
    assert page.images(data_kind="image", alt="Images: tv, slice 61")
    assert "worst in slice 61" in "".join(page.text)


def test_reference_is_shown_and_differences_are_taken_to_it(write):
    truth = make(seed=3).magnitude
    page, _ = write({"tv": make(), "tgv": make(seed=1)}, reference=truth)
    assert [a["data-method"] for a in page.images(data_kind="difference")] == ["tv", "tgv"]
    assert page.images(data_kind="image", data_method="reference")
    assert "Difference to reference" in page.text


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_pixels_that_are_not_finite_are_told(write, bad):
    result = make()
    result.image[0, :, 3, 4] = bad
    page, _ = write({"tv": result, "tgv": make(seed=1)})
    assert "Read this first" in page.text
    assert "1 of 1280 pixels are NaN or infinite" in "".join(page.text)
    picture = np.asarray(decode(page.images(data_kind="image", data_method="tv")[0]))
    assert picture.std() > 10  # the window is not spoilt


def test_an_image_of_nothing_but_nan_still_gives_a_report(write):
    page, _ = write({"tv": make(image=torch.full((1, 2, 8, 8), math.nan), maps={}, uncertainty=None)})
    assert "Not computed for this slice." in page.text
    assert "64 of 64 pixels" in "".join(page.text)


def test_a_large_residual_is_told_even_where_nobody_warned(write):
    page, path = write({"tv": make(metrics={"data_residual": [1.7]})})
    assert '<td class="bad"><span>1.70' in path.read_text("utf-8")
    assert "misses the data by 1.70 times" in "".join(page.text)
    page, _ = write({"tv": make(metrics={"data_residual": [1.2]})})
    assert "Read this first" not in page.text


def test_best_of_each_row_is_marked(write):
    worse = make(metrics={"hold_out_error": [0.3], "data_residual": [0.4], "psnr": [31.0]})
    better = make(metrics={"hold_out_error": [0.2], "data_residual": [1.1], "psnr": [30.0]})
    page, path = write({"worse": worse, "better": better})
    text = path.read_text("utf-8")
    for value, best in [("0.300", 0), ("0.200", 1), ("0.40", 0), ("1.10", 0), ("31.00 dB", 1), ("30.00 dB", 0)]:
        assert (f'<td class="best"><span>{value}' in text) == bool(best)
    assert "better predicts left-out samples best" in "".join(page.text)


def test_metrics_of_volumes_have_their_range_and_intervals_are_kept(write):
    metrics = {"hold_out_error": [0.1, math.nan, 0.3], "psnr": [30.0, 31.0, 32.0], "psnr_interval": [29.5, 32.5]}
    page, _ = write({"tv": make(3, metrics=metrics)})
    text = "".join(page.text)
    assert "0.2000.100 to 0.300worst in slice 2" in text
    assert "31.00 dB29.50 dB to 32.50 dB" in text
    assert "psnr interval" not in text


def test_ties_are_shared_and_one_method_has_no_best():
    psnr = merit("psnr")
    assert psnr.best([30.001, 30.002, 29.0]) == {0, 1}
    assert psnr.best([30.0]) == set()
    assert psnr.best([math.nan, 30.0]) == set()
    assert merit("something_new").label == "something new"


def test_results_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ShapeError, match=r"tv \(1, 40, 32\), tgv \(2, 40, 32\)"):
        write_report({"tv": make(), "tgv": make(2)}, tmp_path / "r.html")
    with pytest.raises(OptionError, match="at least one result"):
        write_report({}, tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_existing_report_stays(tmp_path):
    path = tmp_path / "r.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="overwrite"):
        write_report({"tv": make()}, path)
    assert path.read_text() == "mine"


def test_result_reports_itself(tmp_path):
    page = Page(make().report(tmp_path / "r.html", others={"tgv": make(seed=1)}).read_text("utf-8"))
    assert {a["data-method"] for a in page.images(data_kind="image")} == {"tv", "tgv"}


def test_anisotropic_pixels_keep_their_proportions(write):
    page, _ = write({"tv": make(spacing=(5.0, 1.0, 2.0))})
    styles = [a.get("style", "") for _, a in page.tags if a.get("class") == "frame"]
    assert "aspect-ratio: 1.6000" in styles  # 32 columns of 2 mm over 40 rows of 1 mm
    assert "aspect-ratio: 0.8000" in styles  # k-space has no millimetres


@given(st.integers(1, 300), st.integers(1, 12), st.data())
def test_chosen_slices_are_sorted_within_bounds_and_unique(n, limit, data):
    preferred = data.draw(st.lists(st.integers(0, n - 1), max_size=5))
    chosen = choose_slices(n, limit, preferred=preferred)
    assert chosen == sorted(set(chosen))
    assert 1 <= len(chosen) <= min(n, limit)
    assert all(0 <= index < n for index in chosen)
    assert set(preferred[:1]) <= set(chosen)
    if n <= limit:
        assert len(chosen) == n


def test_one_diverged_method_does_not_blacken_the_others():
    good = np.ones((3, 8, 8), dtype=np.float32)
    assert common_window([good, good, 1e6 * good]) == 1.0
    assert common_window([np.full((2, 2), np.nan, dtype=np.float32)]) == 1.0
    assert common_window([0 * good]) == 1.0


def test_detail_box_finds_the_detail():
    image = np.zeros((90, 90), dtype=np.float32)
    image[40:60, 45:65] = np.random.default_rng(0).random((20, 20))
    top, left, size = detail_box(image)
    assert size == 31
    assert top <= 40
    assert top + size >= 60
    assert left <= 45
    assert left + size >= 65
    assert detail_box(np.zeros((2, 5), dtype=np.float32)) == (0, 0, 1)


def test_figures_are_png_files(tmp_path):
    results = {"tv": make(spacing=(1.0, 1.0, 1.0)), "tgv": make(seed=1)}
    one = save_comparison(results, tmp_path / "c.png")
    two = save_comparison(results, tmp_path / "r.png", reference=make(seed=5).magnitude)
    three = save_trust(results, tmp_path / "t.png")
    four = save_sampling(results["tv"], tmp_path / "s.png")
    widths = []
    for path in (one, two, three, four):
        with Picture.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"
            widths.append(picture.width)
    assert widths[1] > widths[0]  # the reference has a column of its own


def test_figures_refuse_what_is_not_there(tmp_path):
    with pytest.raises(OptionError, match="no such slice"):
        save_comparison({"tv": make()}, tmp_path / "c.png", slice_index=1)
    with pytest.raises(OptionError, match="at least one result"):
        save_comparison({}, tmp_path / "c.png")
    with pytest.raises(OptionError, match="noise map"):
        save_trust({"tv": make(maps=False)}, tmp_path / "c.png")
    with pytest.raises(OptionError, match="sampling"):
        save_sampling(make(maps=False), tmp_path / "c.png")
    with pytest.raises(ShapeError, match="side by side"):
        save_comparison({"tv": make(), "tgv": make(shape=(8, 8))}, tmp_path / "c.png")
    assert not list(tmp_path.iterdir())
