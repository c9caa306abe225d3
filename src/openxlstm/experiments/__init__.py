"""Does xLSTM deliver on its promises? Questions with published anchors, and a report of what was measured here."""

from openxlstm.experiments.question import SCALES, Check, Question, Setting
from openxlstm.experiments.questions import QUESTIONS
from openxlstm.experiments.report import Answer, Report, answer_all

__all__ = ["QUESTIONS", "SCALES", "Answer", "Check", "Question", "Report", "Setting", "answer_all"]
