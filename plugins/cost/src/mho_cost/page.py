"""The page of a cost: what each layer and component takes, stacked, with bands, counts and sources."""

from mho_lab.report import Block, code, facts, figures, page, table

from mho.config import Hardware
from mho_cost.estimate import Cost, prefix, si, square

DRAWN = 24  # layers on the picture


def cost_page(c: Cost, hw: Hardware, task: str, command: str = "") -> str:
    """One HTML file."""
    low, high = c.band
    layers = c.by("layer")
    worst = max(layers, key=lambda name: layers[name][0])
    share = layers[worst][0] / (c.energy or 1)
    headline = (
        f"A sample costs {si(c.energy, 'J')} ({si(low, 'J')} to {si(high, 'J')}), {share:.0%} of it in layer {worst}; "
        f"{si(c.latency, 's')} one after the other, {square(c.area)}."
    )
    figures_of = {
        "Energy of a sample": f"{si(c.energy, 'J')}, between {si(low, 'J')} and {si(high, 'J')}",
        "Latency, nothing overlaps": si(c.latency, "s"),
        "Between samples in a full pipeline": si(c.interval, "s"),
        "Average power": "" if c.power is None else si(c.power, "W"),
        "Area": square(c.area),
        **({"Programming, once": si(c.programming, "J")} if c.programming else {}),
    }
    about = ["Component", "Per", "Energy", "Within a factor of", "Basis", "Year", "nm", "Source", "Second-hand from", "Note"]
    sources = [
        [r.name, r.per, ", ".join(f"{v:.3g} pJ" for v in r.parts(8).values()), f"{1 + (r.band or 0):g}", r.basis, r.year, r.node,
         r.source, r.via or "", r.note]
        for r in c.table.rows
    ]  # fmt: skip
    counted = c.counts.as_table()
    blocks = [
        stacked(c),
        facts("In all", figures_of, note=". ".join(v[:1].upper() + v[1:] for v in c.caveats()) + "."),
        table("Counts of a sample", counted.head, counted.rows, note=counted.note),
        table("Where the numbers come from", about, sources, note="Energies of the ADC model: at 8 bits."),
        code("The hardware", hw.to_yaml(), summary="Resolved hardware file"),
        *([code("To get this again", command)] if command else []),
    ]
    return page(f"Cost of {task} on: {hw.description or hw.default}", blocks, headline=headline)


def stacked(c: Cost) -> Block:
    """Energy by layer, its components side by side; the whisker is the band of the layer."""
    layers = dict(sorted(c.by("layer").items(), key=lambda item: -item[1][0])[:DRAWN])
    names = [n for n in c.by("layer") if n in layers]
    parts = list(c.by("component"))
    found = {(s.layer, s.component): s.energy for s in c.shares if not s.programming}
    unit, factor = prefix(max((e for e, _, _ in layers.values()), default=0.0))
    rows = [[n or "(root)", *(si(found.get((n, p), 0.0), "J") for p in parts), *(si(v, "J") for v in layers[n])] for n in names]

    def draw(name: str) -> str:
        with figures.canvas(0.8 + 0.3 * len(names)) as figure:
            ax = figure.add_subplot()
            for i, layer in enumerate(names):
                left = 0.0
                for j, part in enumerate(parts):
                    width = found.get((layer, part), 0.0) / factor
                    alpha = 1.0 if j < figures.SERIES else 0.5  # the second time round a colour is pale
                    ax.barh(-i, width, left=left, height=0.7, color=figures.colour(j), alpha=alpha)
                    left += width
                e, low, high = (v / factor for v in layers[layer])
                ax.errorbar(e, -i, xerr=[[e - low], [high - e]], color=figures.INK, capsize=3, elinewidth=1)
            figures.names_axis(ax, [n or "(root)" for n in names])
            ax.set_xlabel(f"energy of a sample, {unit}J")
            return figures.finish(figure, name, f"Energy of each layer by component in {unit}J. The numbers are in the table.")

    head = ["Layer", *parts, "Total", "Low", "High"]
    shown = {"head": head, "rows": rows, "right": set(range(1, len(head)))}
    more = len(c.by("layer")) - len(names)
    note = "Whiskers: bands of the table, all in one direction." + (f" {more} smaller layers are in the counts." if more else "")
    return Block("Energy by layer and component", "figure", {"legend": parts, "levels": [], "table": shown}, draw, note)
