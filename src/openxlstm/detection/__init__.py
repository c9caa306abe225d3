"""Anomalies: a detector that scores rows as they come, baselines, and the score of the Numenta Anomaly Benchmark."""

from openxlstm.detection.detector import AnomalyDetector
from openxlstm.detection.settings import DetectorSettings

__all__ = ["AnomalyDetector", "DetectorSettings"]
