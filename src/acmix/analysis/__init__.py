"""Looking inside: the learned rates, where a network attends, what it costs. Drawing is what loads matplotlib."""

from acmix.analysis.attention import choose_layers, look_inside
from acmix.analysis.attention_picture import draw_heads, draw_overview
from acmix.analysis.complexity import count_complexity, count_units
from acmix.analysis.rates import format_rates, layer_rates, write_rates_csv
from acmix.analysis.rates_picture import draw_rates
from acmix.analysis.scene import Preparation, make_scene

__all__ = [
    "Preparation",
    "choose_layers",
    "count_complexity",
    "count_units",
    "draw_heads",
    "draw_overview",
    "draw_rates",
    "format_rates",
    "layer_rates",
    "look_inside",
    "make_scene",
    "write_rates_csv",
]
