"""Does xLSTM deliver on its promises? Questions with published anchors, and a report of what was measured here."""

from openxlstm.experiments.answer import Answer
from openxlstm.experiments.question import SCALES, Check, Evidence, Question
from openxlstm.experiments.questions import QUESTIONS
from openxlstm.experiments.report import Report, answer_all
from openxlstm.experiments.trained import Setting, Trained

__all__ = ["QUESTIONS", "SCALES", "Answer", "Check", "Evidence", "Question", "Report", "Setting", "Trained", "answer_all"]
