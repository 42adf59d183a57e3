"""Draws a board from what Prometheus answers: the panels of Grafana's JSON at their places, with their names, units and limits."""

import math

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from queries import FILLED, panels

BACKGROUND, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#d0d0d8", "#8e8e99"
COLOURS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0"]
NAMED = {"green": "#73bf69", "yellow": "#f2cc0c", "red": "#f2495c", "blue": "#5794f2", "purple": "#b877d9", "orange": "#ff9830",
         "text": TEXT, "transparent": None}


def told(value, unit):
    """A number as Grafana writes it."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "bytes":
        step = max(0, min(4, int(math.log(max(value, 1), 1024))))
        return f"{value / 1024**step:.3g} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][step]}"
    if unit == "s":
        for size, name in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1000:.3g} ms" if value else "0 s"
    suffix = {"reqps": " req/s", "celsius": " °C", "watt": " W"}.get(unit, "")
    return f"{value:.3g}{suffix}" if abs(value) < 1000 else f"{value:,.0f}{suffix}"


class Drawer:
    """Draws one board from what Prometheus knows of a span of time."""

    def __init__(self, prometheus, began, ended):
        self.prometheus, self.began, self.ended = prometheus, began, ended

    def answers(self, panel):
        """(what it is called, times, values, labels) of every series of a panel."""
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in FILLED.items():
                query = query.replace(name, value)
            span = {"start": self.began, "end": self.ended, "step": "2s"}
            for series in self.prometheus.ask("/api/v1/query_range", query=query, **span)["data"]["result"]:
                labels, legend = series["metric"], target.get("legendFormat", "")
                for name, value in labels.items():
                    legend = legend.replace("{{%s}}" % name, value)
                times = [(float(at) - self.began) / 60 for at, _ in series["values"]]
                yield legend, times, [float(value) for _, value in series["values"]], labels

    def board(self, board, path):
        """The picture of a board."""
        tall = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels(board))
        figure = pyplot.figure(figsize=(15, tall * 0.33 + 0.5), facecolor=BACKGROUND)
        figure.text(0.01, 1 - 0.15 / (tall * 0.33), board["title"], color=TEXT, fontsize=15, va="top")
        for panel in panels(board):
            place = panel["gridPos"]
            left, width = place["x"] / 24, place["w"] / 24
            top = 1 - (place["y"] + 1.4) / (tall + 1.5)
            height = place["h"] / (tall + 1.5)
            if panel["type"] == "row":
                figure.text(left + 0.01, top - height / 2, "▾ " + panel["title"], color=TEXT, fontsize=11, va="center")
                continue
            unit_height = 1 / (tall + 1.5)
            axes = figure.add_axes((left + 0.03, top - height + unit_height * 1.1, width - 0.038, height - unit_height * 2.1))
            axes.set_facecolor(PANEL)
            axes.set_title(panel["title"], color=TEXT, fontsize=8.5, loc="left", pad=3)
            axes.tick_params(colors=FAINT, labelsize=6.5, length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
            getattr(self, panel["type"].replace("-", ""))(axes, panel, list(self.answers(panel)))
        figure.savefig(path, dpi=72, facecolor=BACKGROUND, pil_kwargs={"optimize": True})
        pyplot.close(figure)

    def nothing(self, axes):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no data", color=FAINT, fontsize=9, ha="center", va="center", transform=axes.transAxes)

    def colour(self, panel, value):
        """What the panel's words or limits make of a value: (text, colour)."""
        defaults = panel["fieldConfig"]["defaults"]
        for mapping in defaults.get("mappings", []):
            if word := mapping["options"].get(f"{value:g}"):
                return word["text"], NAMED.get(word["color"], word["color"])
        colour = "text"
        for step in defaults.get("thresholds", {}).get("steps", []):
            if step["value"] is None or value >= step["value"]:
                colour = step["color"]
        return None, NAMED[colour]

    def stat(self, axes, panel, series):
        if not series:
            return self.nothing(axes)
        self.nothing(axes)
        axes.texts[0].remove()
        value = series[0][2][-1]
        text, colour = self.colour(panel, value)
        text = text or told(value, panel["fieldConfig"]["defaults"].get("unit"))
        axes.text(0.5, 0.5, text, color=colour, fontsize=17, ha="center", va="center", transform=axes.transAxes)

    def timeseries(self, axes, panel, series):
        if not series:
            return self.nothing(axes)
        defaults = panel["fieldConfig"]["defaults"]
        unit, custom = defaults.get("unit"), defaults.get("custom", {})
        if custom.get("stacking", {}).get("mode") == "normal":
            times = sorted({at for _, its, _, _ in series for at in its})
            layers = [[dict(zip(its, values)).get(at, 0) for at in times] for _, its, values, _ in series]
            layers = [[0 if math.isnan(value) else value for value in layer] for layer in layers]
            axes.stackplot(times, layers, colors=COLOURS, alpha=0.6)
        else:
            for at, (_, times, values, _) in enumerate(series):
                axes.plot(times, values, color=COLOURS[at % len(COLOURS)], linewidth=1)
        for step in defaults.get("thresholds", {}).get("steps", []):
            if step["value"] is not None and custom.get("thresholdsStyle"):
                axes.axhline(step["value"], color=NAMED[step["color"]], linewidth=0.8, linestyle="--")
        axes.set_xlim(0, (self.ended - self.began) / 60)
        if custom.get("scaleDistribution", {}).get("type") == "log":
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, defaults.get("max"))
        axes.grid(color="#2c3038", linewidth=0.5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")
        axes.yaxis.set_major_formatter(lambda value, _: told(value, unit))
        axes.minorticks_off()
        handles = [pyplot.Line2D([], [], color=COLOURS[at % len(COLOURS)]) for at in range(min(len(series), 4))]
        names = [legend[:34] for legend, *_ in series[:4]]
        axes.legend(handles, names, fontsize=6, labelcolor=TEXT, facecolor=PANEL, edgecolor=PANEL, framealpha=0.6, loc="upper left")

    def statetimeline(self, axes, panel, series):
        if not series:
            return self.nothing(axes)
        for row, (legend, times, values, _) in enumerate(series):
            for begin, end, value in zip(times, times[1:] + [times[-1] + 1 / 30], values):
                axes.barh(row, end - begin, left=begin, height=0.8, color=self.colour(panel, value)[1], linewidth=0)
        axes.set_yticks([])
        for row, (legend, *_) in enumerate(series):
            box = {"facecolor": PANEL, "edgecolor": "none", "alpha": 0.7, "pad": 1.5}
            axes.text(0.005, row, legend, color=TEXT, fontsize=8, va="center", transform=axes.get_yaxis_transform(), bbox=box)
        axes.set_xlim(0, (self.ended - self.began) / 60)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")
        words = panel["fieldConfig"]["defaults"]["mappings"][0]["options"].values()
        handles = [pyplot.Line2D([], [], color=NAMED.get(word["color"], word["color"]), linewidth=5) for word in words]
        axes.legend(handles, [word["text"] for word in words], ncol=len(handles), fontsize=6.5, labelcolor=TEXT, facecolor=PANEL,
                    edgecolor=PANEL, loc="lower right")

    def heatmap(self, axes, panel, series):
        if not series:
            return self.nothing(axes)
        ordered = sorted(series, key=lambda one: float(one[3]["le"]))
        times = sorted({at for _, its, _, _ in ordered for at in its})
        counts = [[dict(zip(its, values)).get(at, 0) for at in times] for _, its, values, _ in ordered]
        # Buckets hold all below them, too.
        cells = [[max(0, upper - lower) for upper, lower in zip(row, below)] for row, below in zip(counts, [[0] * len(times), *counts])]
        axes.pcolormesh(times, range(len(cells)), cells, cmap="inferno", shading="nearest")
        labels = [told(float(one[3]["le"]), "s") if one[3]["le"] != "+Inf" else "more" for one in ordered]
        axes.set_yticks(range(0, len(cells), 2), labels[::2])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")

    def bargauge(self, axes, panel, series):
        if not series:
            return self.nothing(axes)
        defaults = panel["fieldConfig"]["defaults"]
        for row, (_, _, values, _) in enumerate(series):
            axes.barh(row, values[-1], color=self.colour(panel, values[-1])[1], height=0.6)
            axes.text(0.99, row, told(values[-1], defaults.get("unit")), color=TEXT, fontsize=7, ha="right", va="center",
                      transform=axes.get_yaxis_transform())
        axes.set_yticks(range(len(series)), [""] * len(series))
        for row, (legend, *_) in enumerate(series):
            box = {"facecolor": PANEL, "edgecolor": "none", "alpha": 0.7, "pad": 1.5}
            axes.text(0.01, row, legend, color=TEXT, fontsize=7, va="center", transform=axes.get_yaxis_transform(), bbox=box)
        axes.set_xlim(0, defaults.get("max"))
        axes.set_xticks([])

    def table(self, axes, panel, series):
        hidden = panel["transformations"][0]["options"]["excludeByName"]
        # What was there at one of the last two steps is there now.
        now = (self.ended - self.began) / 60 - 4 / 60
        shown = [labels for _, times, _, labels in series if times[-1] >= now]
        if not shown:
            return self.nothing(axes)
        axes.set_xticks([])
        axes.set_yticks([])
        for row, labels in enumerate(shown[:6]):
            text = "   ".join(value for name, value in sorted(labels.items()) if not hidden.get(name))
            axes.text(0.02, 0.9 - row * 0.15, text, color=TEXT, fontsize=8, va="center", transform=axes.transAxes)
