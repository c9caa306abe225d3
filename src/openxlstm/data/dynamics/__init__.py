"""Chaotic systems in float64: their equations, solvers, trajectories, and how fast neighbours part."""

from openxlstm.data.dynamics.delay import MackeyGlass
from openxlstm.data.dynamics.flows import DoublePendulum, Lorenz63, Lorenz96, Roessler
from openxlstm.data.dynamics.integrate import dormand_prince, rk4
from openxlstm.data.dynamics.lyapunov import Exponent, largest_exponent
from openxlstm.data.dynamics.system import Flow, System
from openxlstm.data.dynamics.waves import KuramotoSivashinsky

__all__ = [
    "DoublePendulum",
    "Exponent",
    "Flow",
    "KuramotoSivashinsky",
    "Lorenz63",
    "Lorenz96",
    "MackeyGlass",
    "Roessler",
    "System",
    "dormand_prince",
    "largest_exponent",
    "rk4",
]
