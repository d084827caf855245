"""Write study.html, the report of a search, as one page that needs no network."""

import warnings
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed.run_folder import write_text
from launchers.runs.search_folder import Value, retrain_command, short, shown
from launchers.sweep.space import SearchSpace

if TYPE_CHECKING:
    import optuna

    from launchers.sweep.study import Study

# Optuna's scale goes from white to navy: one is invisible on a light page, the other on a dark one
_SCALE = [[0, "#a9b2bb"], [1, "#2f80dd"]]
_INK, _GRID = "#808890", "rgba(128,136,144,.25)"  # legible on a light and on a dark page


def write(study: "Study", path: Path, home: Path) -> Path:
    """Write the page of a study that has at least one complete trial.

    home: the search's folder on the machine of the person who started it, for the command that the page shows.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"shown": shown, "short": short}
    template = environment.from_string((files("launchers.sweep") / "page.html.jinja").read_text())
    trials, best = study.trials(), study.best()
    assert best is not None
    counts = study.counts()
    ended = [trial for trial in trials if trial.finished]
    write_text(
        path,
        template.render(
            css=Markup((files("dogbreed.report") / "page.css").read_text()),
            about=study.about,
            best=best,
            best_parameters=_items(study.about.space, best.values),
            counts=counts,
            seconds=sum(trial.seconds for trial in ended),
            epochs=sum(trial.epochs for trial in ended),
            keys=list(study.about.space.parameters),
            trials=trials,
            plots=[(title, note, Markup(html)) for title, note, html in _plots(study)],
            retrain=retrain_command(home),
        ),
    )
    return path


def _items(space: SearchSpace, values: Any) -> list[tuple[str, Value]]:
    return [(key, values[key]) for key in space.parameters if key in values]


def _plots(study: "Study") -> list[tuple[str, str, str]]:
    """Return title, description and HTML of each plot; the first one includes plotly's script."""
    from optuna import visualization

    target = study.about.monitor
    made: list[tuple[str, str, Callable[[optuna.Study], Any]]] = [
        (
            "History",
            f"Each trial's {target}, and the best so far.",
            lambda of: visualization.plot_optimization_history(of, target_name=target),
        ),
        (
            "Importance",
            f"How much of the difference in {target} each parameter accounts for (PED-ANOVA, arXiv 2304.10255): "
            "it compares the best trials with all of them.",
            lambda of: visualization.plot_param_importances(of, target_name=target),
        ),
        (
            "Parallel coordinates",
            "One line for each complete trial; drag along an axis to select some.",
            lambda of: visualization.plot_parallel_coordinate(of, target_name=target),
        ),
        (
            "Slices",
            "Each parameter on its own.",
            lambda of: visualization.plot_slice(of, target_name=target),
        ),
    ]
    plots = []
    script: str | bool = True
    for title, note, make in made:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                figure = make(study.optuna_study)
        except (ValueError, RuntimeError) as error:  # too few trials, or all of them equal
            plots.append((title, f"Cannot be drawn from these trials: {error}", ""))
            continue
        _style(figure)
        html = figure.to_html(
            full_html=False,
            include_plotlyjs=script,
            div_id=f"plot-{len(plots)}",
            config={"displaylogo": False, "responsive": True, "displayModeBar": False},
        )
        script = False
        plots.append((title, note, html))
    return plots


def _style(figure: Any) -> None:
    figure.update_layout(
        title=None,
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _INK, "family": "system-ui, sans-serif", "size": 12},
        margin={"l": 60, "r": 30, "t": 40, "b": 60},
        height=380,
        legend={"orientation": "h", "y": 1.12},
    )
    for trace in figure.data:
        if trace.type == "scatter" and trace.marker.colorscale is not None:
            trace.marker.update(colorscale=_SCALE, line_color=_GRID)
    figure.for_each_yaxis(lambda axis: axis.update(title=None) if axis.title.text == "Hyperparameter" else None)
    figure.update_xaxes(gridcolor=_GRID, linecolor=_GRID, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=_GRID, linecolor=_GRID, zeroline=False, automargin=True)
