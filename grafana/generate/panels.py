"""The kinds of panels that the boards are made of, each with the project's looks."""

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmaps
from grafana_foundation_sdk.models import prometheus as queries

SOURCE = model.DataSourceRef(type_val="prometheus", uid="vllama-prometheus")
GOOD, FAIR, BAD, PLAIN = "green", "yellow", "red", "text"

# What an engine may be, in the order of vllama_engine_state's values on the boards.
STATES = ["stopped", "starting", "ready", "asleep", "stopping", "restarting", "failed"]
STATE_COLOURS = ["#6e7681", "blue", "green", "purple", "yellow", "orange", "red"]


def _query(expression, legend="", letter="A"):
    return prometheus.Dataquery().expr(expression).legend_format(legend or "__auto").ref_id(letter).datasource(SOURCE)


def _thresholds(steps):
    """Colours from values on: `[(None, GOOD), (0.9, BAD)]`."""
    steps = [model.Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _mapping(values):
    """Words and colours instead of numbers: `{0: ("no", BAD)}`."""
    results = {
        str(value): model.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(values.items())
    }
    return [model.ValueMap(options=results)]


def _placed(panel, title, description, width, height):
    return panel.title(title).description(description).datasource(SOURCE).span(width).height(height)


def figure(title, description, expression, unit, steps=((None, PLAIN),), words=None, decimals=None, width=4):
    """One number, now. Where the query has no answer it shows a dash, never a guess."""
    panel = _placed(stat.Panel(), title, description, width, 4)
    panel = panel.with_target(_query(expression).instant()).unit(unit).thresholds(_thresholds(steps)).no_value("–")
    panel = panel.color_mode(looks.BigValueColorMode.VALUE).graph_mode(looks.BigValueGraphMode.NONE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if words:
        panel = panel.mappings(_mapping(words))
    return panel if decimals is None else panel.decimals(decimals)


def lines(title, description, expressions, unit, width=8, stacked=False, top=None, steps=None, logarithmic=False):
    """Numbers over time; `expressions` maps what a line is called to its query."""
    panel = _placed(timeseries.Panel(), title, description, width, 8).unit(unit).min(0)
    for index, (legend, expression) in enumerate(expressions.items()):
        panel = panel.with_target(_query(expression, legend, "ABCDEFGH"[index]))
    panel = panel.line_width(1).fill_opacity(25 if stacked else 8).show_points(looks.VisibilityMode.NEVER)
    legend = common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST).placement(looks.LegendPlacement.BOTTOM)
    panel = panel.legend(legend.show_legend(True))
    panel = panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    if top is not None:
        panel = panel.max(top)
    if logarithmic:
        panel = panel.scale_distribution(common.ScaleDistributionConfig().type(looks.ScaleDistribution.LOG).log(10))
    if steps:
        panel = panel.thresholds(_thresholds(steps))
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED))
    return panel


def states(title, description, width=24):
    """What each engine was, over time."""
    number = " or ".join(
        f'{index} * (vllama_engine_state{{engine=~"$engine",state="{state}"}} == 1)' for index, state in enumerate(STATES)
    )
    expression = f"max by (instance, engine) ({number})"
    words = {index: (state, colour) for index, (state, colour) in enumerate(zip(STATES, STATE_COLOURS))}
    panel = _placed(statetimeline.Panel(), title, description, width, 7)
    panel = panel.with_target(_query(expression, "{{engine}}")).mappings(_mapping(words)).merge_values(True)
    return panel.show_value(looks.VisibilityMode.AUTO).row_height(0.8).fill_opacity(80)


def heat(title, description, metric, unit, width=12):
    """How the observations of a histogram lie over time; `metric` without its suffix, with its labels."""
    name, labels = metric.split("{", 1)
    expression = f"sum by (le) (increase({name}_bucket{{{labels}[$__rate_interval]))"
    panel = _placed(heatmap.Panel(), title, description, width, 8)
    panel = panel.with_target(_query(expression, "{{le}}").format(queries.PromQueryFormat.HEATMAP))
    colour = heatmap.HeatmapColorOptions().mode(heatmaps.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64).exponent(0.5)
    return panel.calculate(False).color(colour).y_axis(heatmap.YAxisConfig().unit(unit)).cell_gap(1)


def bars(title, description, expressions, unit, steps=((None, GOOD),), width=8, top=None):
    """A bar for each series, now."""
    panel = _placed(bargauge.Panel(), title, description, width, 8).unit(unit).thresholds(_thresholds(steps)).min(0)
    for index, (legend, expression) in enumerate(expressions.items()):
        panel = panel.with_target(_query(expression, legend, "ABCDEFGH"[index]).instant())
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel = panel.orientation(looks.VizOrientation.HORIZONTAL).display_mode(looks.BarGaugeDisplayMode.BASIC)
    return panel if top is None else panel.max(top)


def rows(title, description, expression, hidden, width=12):
    """A table of the labels of each series, now, without those in `hidden`."""
    panel = _placed(table.Panel(), title, description, width, 8).no_value("none")
    panel = panel.align(looks.FieldTextAlignment.AUTO).inspect(False)
    panel = panel.with_target(_query(expression).instant().format(queries.PromQueryFormat.TABLE))
    excluded = {name: True for name in ["Time", *hidden]}
    return panel.with_transformation(model.DataTransformerConfig(id_val="organize", options={"excludeByName": excluded}))


def board(uid, title, description, variables, sections):
    """A board of sections, each a heading with panels below it."""
    built = dashboard.Dashboard(title).uid(uid).description(description).tags(["vllama"]).readonly()
    built = built.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(model.DashboardCursorSync.CROSSHAIR)
    links = dashboard.DashboardLink("vllama").type(model.DashboardLinkType.DASHBOARDS).tags(["vllama"])
    built = built.link(links.keep_time(True).include_vars(True))
    for variable in variables:
        built = built.with_variable(variable)
    for heading, panels in sections.items():
        built = built.with_row(dashboard.Row(heading))
        for panel in panels:
            built = built.with_panel(panel)
    made = built.build()
    for number, panel in enumerate(made.panels, start=1):
        panel.id_val = number
    return made


def variable(name, metric):
    """A choice among the values that the label of this name has in a metric; all of them at first."""
    query = dashboard.QueryVariable(name).label(name).datasource(SOURCE).query(f"label_values({metric}, {name})")
    everything = model.VariableOption(selected=True, text="All", value="$__all")
    query = query.current(everything).multi(True).include_all(True).all_value(".*")
    return query.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)
