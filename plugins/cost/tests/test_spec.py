"""Device specification maps: against a law that is known, and against a dense grid."""

import math

import pytest
from mho_cost.spec import at, kinds_of, spec_map, spec_page
from mho_lab import Effort, Subject

import mho

HW = mho.load("pcm.standard")
EFFORT = Effort((2, 4))


class Known:
    """A network whose accuracy is 1 - (n^2 + d^2 log10(1 + t)/4)/100 with a little scatter, n and d strengths in the file."""

    def __init__(self):
        self.chips = 0

    def accuracy(self, hw, t):
        scale = mho.Hardware.from_data(hw).tiles["pcm"].scale
        n, d = scale.get("pcm.programming_noise", 1.0), scale.get("pcm.drift", 1.0)
        return 1 - (n**2 + d**2 * math.log10(1 + t) / 4) / 100

    def measured(self, items, measure):
        found = []
        for i in items:
            if i["hardware"] is None:
                found.append({"scores": [[1.0]]})
                continue
            first, last = i["chips"]
            self.chips += last - first
            mean = self.accuracy(i["hardware"], i["times"][0])
            found.append({"scores": [[mean + 1e-3 * (-1) ** k] for k in range(first, last)]})
        return found


@pytest.fixture
def subject(tmp_path, monkeypatch):
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"anything")
    monkeypatch.setattr(Subject, "chance", 0.0)
    return Subject("digits", str(file))


def test_axes_turn_the_effects_of_the_devices_and_nothing_else():
    assert kinds_of(HW) == {"drift": ["pcm.drift"], "noise": ["pcm.programming_noise", "pcm.read_noise_1f", "pcm.read_noise"]}
    scale = at(HW, window=2.0, noise=3.0, drift=0.5).tiles["pcm"].scale
    assert (scale["pcm.programming_noise"], scale["pcm.drift"]) == (6.0, 0.5)
    assert not any(k.startswith("circuit") for k in scale)


def test_rays_end_where_the_law_says(subject):
    """On the iso-line n^2 + d^2 log10(1 + t)/4 = 4."""
    m = spec_map(subject, HW, [1.0, 3600.0], Known().measured, axes=("noise", "drift"), target=0.96, effort=EFFORT, tolerance=0.1)
    assert len(m.rays) == 10
    for r in m.rays:
        assert r.noise**2 + r.drift**2 * math.log10(1 + r.time) / 4 == pytest.approx(4, rel=0.15)
        assert r.low <= r.reached <= r.high


def test_a_smaller_window_stands_less_noise(subject):
    m = spec_map(subject, HW, [1.0], Known().measured, target=0.96, windows=(12.5, 25.0), rays=3, effort=EFFORT)
    stands = {r.window: r.noise for r in m.rays if r.drift < 1e-6}
    assert stands[25.0] == pytest.approx(2 * stands[12.5], rel=0.25)
    plane = spec_map(subject, HW, [1.0], Known().measured, axes=("window", "noise"), target=0.96, rays=3, effort=EFFORT)
    diagonal = next(r for r in plane.rays if math.isfinite(r.window) and r.noise > 0.1)
    assert (diagonal.noise * 25 / diagonal.window) ** 2 == pytest.approx(4, rel=0.3)


def test_bisection_agrees_with_a_dense_grid_on_a_third_of_the_chips(subject):
    known = Known()
    m = spec_map(
        subject, HW, [3600.0], known.measured, axes=("noise", "drift"), target=0.96, rays=3, effort=EFFORT, tolerance=0.5
    )
    steps, chips = [0.25 * k for k in range(1, 17)], 4  # a grid that resolves the line as well as the tolerance does
    assert known.chips <= len(steps) ** 2 * chips / 3
    for r in m.rays:
        inside = [known.accuracy(at(HW, 1.0, r.noise * s, r.drift * s).to_data(), r.time) >= 0.96 for s in (0.8, 1.25)]
        assert inside == [True, False]


def test_the_page_and_what_is_refused(subject):
    m = spec_map(subject, HW, [1.0], Known().measured, axes=("noise", "drift"), target=0.96, rays=3, effort=EFFORT)
    page = spec_page(m, "t")
    assert "rays by bisection" in page.headline and "below and left" in page.parts[0].figures[0].note
    for axes in (("noise",), ("drift", "noise"), ("noise", "heat")):
        with pytest.raises(mho.MhoError, match="expected two or three of"):
            spec_map(subject, HW, [1.0], Known().measured, axes=axes)
    with pytest.raises(mho.MhoError, match="no effect of its devices"):
        spec_map(subject, mho.load("ideal.quantised"), [1.0], Known().measured)
