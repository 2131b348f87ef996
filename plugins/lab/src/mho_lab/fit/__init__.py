"""From measurements to the parameters of an effect."""

from mho.effects import Column, Measurements, Residuals, normal_distribution, normal_log_density
from mho_lab.fit.fitting import Fit, fit, read_csv

__all__ = ["Column", "Fit", "Measurements", "Residuals", "fit", "normal_distribution", "normal_log_density", "read_csv"]
