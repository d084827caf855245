"""study.html: how a search went, as one page that needs no network."""

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

_SCALE = [[0, "#a9b2bb"], [1, "#2f80dd"]]  # Optuna's goes from white to navy, of which each paper swallows one
_INK, _GRID = "#808890", "rgba(128,136,144,.25)"  # legible on light and on dark paper


def write(study: "Study", path: Path, home: Path) -> Path:
    """The page of a study with at least one complete trial. home: the search's folder, where its person reads it."""
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
    """Title, what it shows, and the plot; the first one brings plotly's script along."""
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
            "of the best trials against all.",
            lambda of: visualization.plot_param_importances(of, target_name=target),
        ),
        (
            "Parallel coordinates",
            "A line for each trial that ran to its end; drag along an axis to pick some.",
            lambda of: visualization.plot_parallel_coordinate(of, target_name=target),
        ),
        (
            "Slices",
            "Each parameter by itself.",
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
            plots.append((title, f"Not to be drawn from these trials: {error}", ""))
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
