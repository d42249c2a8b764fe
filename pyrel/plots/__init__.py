# SPDX-License-Identifier: Apache-2.0
"""Figures of explanations, as matplotlib figures without pyplot.

Each function returns a `matplotlib.figure.Figure` that says by itself what it shows;
`figure.savefig(path)` writes it in any format, `to_svg` returns it as text. Colours are those of
Okabe and Ito, which stay apart for colour-blind readers, and never the only difference.
"""

from pyrel.errors import part_of_extra

with part_of_extra("report", "pyrel.plots", "matplotlib"):
    from pyrel.plots.charts import conservation_scatter, step_bars, summary_dots
    from pyrel.plots.heatmaps import HeatmapColumn, as_image, colour_scale, heatmap_grid
    from pyrel.plots.judgements import degradation_curves, relevance_histograms
    from pyrel.plots.panels import method_panels
    from pyrel.plots.series import series
    from pyrel.plots.style import to_svg
    from pyrel.plots.tokens import tokens, tokens_html

__all__ = [
    "HeatmapColumn",
    "as_image",
    "colour_scale",
    "conservation_scatter",
    "degradation_curves",
    "heatmap_grid",
    "method_panels",
    "relevance_histograms",
    "series",
    "step_bars",
    "summary_dots",
    "to_svg",
    "tokens",
    "tokens_html",
]
