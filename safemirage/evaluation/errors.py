"""What can be wrong with an evaluation as a whole."""

COMMONEST_REASON = "; commonest reason"
"""In the error of an evaluation that left too much unscored: a judge's words follow, which may quote an answer."""


class EvaluationError(RuntimeError):
    """An evaluation that was refused, failed, or does not allow what is asked of it."""


class NoSuchEvaluation(EvaluationError):
    """A reference that fits no finished evaluation, or several."""
