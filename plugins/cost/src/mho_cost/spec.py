"""What devices must reach: combinations of conductance window, noise, drift and time that keep a network accurate."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from mho_lab import Effort, Page, Part, Study, Subject, Threshold, report, scores, search, study_options, threshold

from mho.config import Hardware, format_seconds, seconds
from mho.ground import NONE, MhoError

AXES = ("window", "noise", "drift")
Place = tuple[float, float, tuple[float, float]]  # time, how many times smaller the window is, direction of the ray
REACH = math.log2(1 + 31)  # rays end at 31 times the strength of the file


@dataclass(frozen=True)
class Ray:
    """How far one ray goes: at `window` µS, `noise` and `drift` times the file's, the accuracy after `time` s is at its target.

    low, high  distances (1: as the file says) at which it is decided to be above and below; None: it never is
    """

    time: float
    window: float
    noise: float
    drift: float
    reached: float | None
    low: float
    high: float | None
    chips: int


@dataclass(frozen=True)
class SpecMap:
    """Iso-lines of a task: for each time (and window, where three axes were asked for) the rays of a plane."""

    axes: tuple[str, ...]
    target: float
    digital: float
    window: float  # of the file, µS
    rays: tuple[Ray, ...]


def kinds_of(hw: Hardware) -> dict[str, list[str]]:
    """Effects of the devices that an axis turns: `drift` those that age without being noise, `noise` the others."""
    effects = [e for t in hw.tiles.values() for e in t.nonidealities if e.strength and e.kind.partition(".")[0] != "circuit"]
    drift = dict.fromkeys(e.kind for e in effects if "age" in e.stages() and not e.noise)  # type: ignore[attr-defined]
    return {"drift": [*drift], "noise": [k for k in dict.fromkeys(e.kind for e in effects) if k not in drift]}


def at(hw: Hardware, window: float, noise: float, drift: float) -> Hardware:
    """`hw` with a conductance window of g_max/`window`, and noise and drift so many times as strong.

    The noise of a device stays what it is in µS: in a window of half the size it is twice as strong.
    """
    kinds = kinds_of(hw)
    return hw.varied(dict.fromkeys(kinds["noise"], noise * window) | dict.fromkeys(kinds["drift"], drift))


def check_axes(hw: Hardware, axes: Sequence[str]) -> None:
    """Raise `MhoError` where a map of this hardware cannot have these axes."""
    if not 2 <= len(axes) <= len(AXES) or set(axes) - set(AXES) or list(axes) != [a for a in AXES if a in axes]:
        raise MhoError(f"--axes {','.join(axes)}: expected two or three of {','.join(AXES)}, in this order")
    if missing := [a for a in axes if a != "window" and not kinds_of(hw)[a]]:
        raise MhoError(f"this hardware has no effect of its devices for the axis {', '.join(missing)}")


def spec_map(
    subject: Subject, hw: Hardware, times: Sequence[float], measured: Any, *,
    axes: Sequence[str] = AXES, target: float = 0.99, windows: Sequence[float] = (), rays: int = 5,
    effort: Effort | None = None, tolerance: float = 0.3,
) -> SpecMap:  # fmt: skip
    """Bisection along rays from the origin of the plane of the last two axes; the first of three is a list of `windows` in µS
    (default: half of, as much as and twice the file's). Accuracy is normalised by the digital score."""
    check_axes(hw, axes)
    full = max(t.device.g_max for t in hw.tiles.values())
    plane, levels = axes[-2:], (list(windows) or [full / 2, full, 2 * full]) if len(axes) == 3 else [full]
    chance = subject.chance
    digital = measured([subject.item(None)], scores)[0]["scores"][0][0]
    if digital == chance:
        raise MhoError(f"the digital network scores {chance:.1%}, which is guessing: there is nothing to lose")
    angles = [math.pi / 2 * i / (rays - 1) for i in range(rays)]
    directions = [(round(math.cos(a), 9), round(math.sin(a), 9)) for a in angles]
    places = [(t, full / w, d) for t in times for w in levels for d in directions]

    def harm(place: Place, x: float) -> dict[str, float]:
        _, window, direction = place
        return {"window": window, "noise": 1.0, "drift": 1.0} | {a: (2**x - 1) * d for a, d in zip(plane, direction)}

    def item(place: Place, ask: Any) -> Any:
        return subject.chips(at(hw, **harm(place, ask.x)), ask.first, ask.last, place[0])

    def margins(place: Any, ask: Any, value: Any) -> list[float]:
        return [(row[0] - chance) / (digital - chance) - target for row in value["scores"]]

    searches = {p: threshold(effort or Effort((3, 6, 12)), REACH, step=1.0, tolerance=tolerance) for p in places}
    found = search(searches, item, margins, scores, measured)
    return SpecMap(tuple(axes), target, digital, full, tuple(_ray(p, f, harm(p, _end(f)), full) for p, f in found.items()))


def _end(f: Threshold) -> float:
    return REACH if f.high is None else f.low if f.x is None else f.x


def _ray(place: Place, f: Threshold, point: dict[str, float], full: float) -> Ray:
    window = full / point["window"] if point["window"] > 1e-9 else math.inf
    high = None if f.high is None else 2**f.high - 1
    reached = None if f.high is None else 2 ** _end(f) - 1
    return Ray(place[0], window, point["noise"], point["drift"], reached, 2**f.low - 1, high, sum(p.n for p in f.points))


def spec_page(m: SpecMap, title: str) -> Page:
    """Iso-lines and a table of their points."""
    x, y = m.axes[-2:]
    lines: dict[str, list[tuple[float, float]]] = {}
    for r in m.rays:
        name = format_seconds(r.time) + (f", window {r.window:.3g} µS" if len(m.axes) == 3 else "")
        if math.isfinite(getattr(r, x)):
            lines.setdefault(name, []).append((getattr(r, x), getattr(r, y)))
    names = {"window": "conductance window, µS", "noise": "noise, times the file's", "drift": "drift, times the file's"}
    where = "below and right of" if x == "window" else "below and left of"
    picture = report.lines(
        f"Where the accuracy is {m.target:.0%} of the digital one", lines, x=names[x], y=names[y],
        note=f"The target is met {where} a line; rays that end at 31 times the file's are longer.",
        x_names=lambda v: f"{v:.3g}",
    )  # fmt: skip
    rows = [
        (format_seconds(r.time), *(f"{v:.3g}" for v in (r.window, r.noise, r.drift)), f"{r.low:.3g}",
         NONE if r.high is None else f"{r.high:.3g}", r.chips)
        for r in m.rays
    ]  # fmt: skip
    head = ("time", "window µS", "noise", "drift", "holds at", "fails at", "chips")
    note = "Holds, fails: length of the ray (noise and drift of the file have length 1), decided at 95 % each."
    last = [r for r in m.rays if r.time == m.rays[-1].time and r.window == m.rays[-1].window]
    alone = [f"{getattr(r, a):.3g} times the file's {a} alone" for r, a in zip((last[0], last[-1]), (x, y)) if a != "window"]
    headline = (
        f"After {format_seconds(last[0].time)} the network keeps {m.target:.0%} of its accuracy up to {', or '.join(alone)}. "
        f"{len(m.rays)} rays by bisection, {sum(r.chips for r in m.rays)} chips; the digital network scores {m.digital:.1%}."
    )
    return Page(title, headline, [Part("What devices must reach", head, rows, note, (picture,))])


@click.command()
@study_options
@click.option("--checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A network [that of mho train].")
@click.option("--axes", default=",".join(AXES), show_default=True, help="Two of them span the map; window first is a list.")
@click.option("--target", default=0.99, show_default=True, help="Normalised accuracy that must remain.")
@click.option("--time", "times", multiple=True, default=("1 h",), show_default=True, metavar="TIME", help="Repeatable.")
@click.option("--window", "windows", multiple=True, type=float, metavar="uS", help="Repeatable [half, all and twice g_max].")
@click.option("--rays", default=5, show_default=True, type=click.IntRange(2), help="Directions in the plane.")
@click.option("--chips", default=12, show_default=True, type=click.IntRange(3), help="At most, for one decision.")
def spec(
    checkpoint: Path | None, axes: str, target: float, times: tuple[str, ...], windows: tuple[float, ...], rays: int, chips: int,
    **options: Any,
) -> None:  # fmt: skip
    """Which devices will do? Combinations of conductance window, noise and drift that keep TASK's network accurate on HW.

    \b
    examples:
      mho spec digits pcm.standard --axes noise,drift --time "1 h" --time "1 year"
      mho spec digits pcm.standard --axes window,noise,drift --target 0.98 --window 10 --window 24
    """
    if not 0 < target < 1 or any(not w > 0 for w in windows):
        raise MhoError("--target is a share between 0 and 1, e.g. 0.99; a --window is above 0 uS")
    study = Study.begin("spec", options)
    check_axes(study.hardware, axes.split(","))  # before anything is trained
    subject = study.subject(checkpoint or study.trained("trained.safetensors"))
    found = spec_map(
        subject, study.hardware, [seconds(t) for t in times], study.measured, axes=axes.split(","), target=target,
        windows=windows, rays=rays, effort=Effort(tuple(sorted({3, max(3, chips // 2), chips}))),
    )  # fmt: skip
    data = {"study": "spec", **asdict(found)}
    data["rays"] = [{k: v if v != math.inf else None for k, v in r.items()} for r in data["rays"]]
    study.finish(spec_page(found, study.title("Device specification")), data)
