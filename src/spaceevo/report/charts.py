"""Charts as Vega-Lite descriptions: plain values in; what they are drawn with, the page decides."""

from collections.abc import Mapping, Sequence

Spec = dict[str, object]
Rows = Sequence[Mapping[str, object]]
HEIGHT = 260  # of every chart, in pixels; the width is the page's
BAR, AROUND = 22, 60  # height of a bar, and of axis and legend each, in pixels
MOST_POINTS = 2000  # of a chart: more are thinned evenly


def thinned(rows: Rows, most: int = MOST_POINTS) -> Rows:
    """Return at most so many rows, evenly spread, the last among them."""
    step = -(-len(rows) // most) if rows else 1
    return [*rows[-1::-step]][::-1]


def axis(field: str, title: str, **more: object) -> Spec:
    """Describe a scale of numbers."""
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": False}, **more}


def series(field: str = "series") -> Spec:
    """Describe colours by name; a click on a name in the legend brings its marks out."""
    return {"field": field, "type": "nominal", "title": None, "sort": None}


def lines(rows: Rows, x: Spec, y: Spec, tooltip: Sequence[str], *, points: bool = True, step: bool = False) -> Spec:
    """Draw rows as lines, one a `series`."""
    mark = {"type": "line", "point": points, "tooltip": True, "interpolate": "step-after" if step else "linear"}
    return _chart(rows, [{"mark": mark, "encoding": _encoding(x, y, tooltip), **_pick()}])


def scatter(rows: Rows, x: Spec, y: Spec, tooltip: Sequence[str], vertical: Sequence[float] = ()) -> Spec:
    """Draw rows as points, coloured by `series`; `vertical` are lines at x."""
    points: Spec = {"mark": {"type": "point", "filled": True, "size": 60}, "encoding": _encoding(x, y, tooltip)}
    rule: Spec = {
        "data": {"values": [{"x": value} for value in vertical]},
        "mark": {"type": "rule", "strokeDash": [4, 4], "color": "currentColor", "opacity": 0.6, "tooltip": True},
        "encoding": {"x": {"field": "x", "type": "quantitative", "title": x["title"]}},
    }
    return _chart(rows, [{**points, **_pick()}, *([rule] if vertical else [])])


def bars(rows: Rows, x: Spec, y_field: str, tooltip: Sequence[str], *, stacked: bool = False) -> Spec:
    """Draw rows as horizontal bars in order of appearance; `stacked` ones have a part for each `series`."""
    y: Spec = {"field": y_field, "type": "nominal", "title": None, "sort": None}
    encoding = _encoding({**x, "scale": {"zero": True}}, y, tooltip, coloured=stacked)
    layer: Spec = {"mark": {"type": "bar"}, "encoding": encoding, **(_pick() if stacked else {})}
    inner = BAR * len({row[y_field] for row in rows})
    return {**_chart(rows, [layer]), "height": inner + AROUND + (AROUND if stacked else 0)}


def _chart(rows: Rows, layers: Sequence[Spec]) -> Spec:
    inside = {"type": "fit", "contains": "padding"}
    return {"width": "container", "height": HEIGHT, "autosize": inside, "data": {"values": list(rows)}, "layer": layers}


def _encoding(x: Spec, y: Spec, tooltip: Sequence[str], *, coloured: bool = True) -> Spec:
    encoding: Spec = {"x": x, "y": y, "tooltip": [{"field": name} for name in tooltip]}
    if coloured:
        opacity = {"condition": {"param": "pick", "value": 1}, "value": 0.15}
        encoding |= {"color": series(), "opacity": opacity}
    return encoding


def _pick() -> Spec:
    return {"params": [{"name": "pick", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}]}
