"""What can be wrong with an evaluation as a whole."""

COMMONEST_REASON = "; commonest reason"
"""The words in the error of an evaluation with too much unscored after which a judge's own words follow, which may
quote an answer."""


class EvaluationError(RuntimeError):
    """An evaluation that was refused, failed, or does not allow what is asked of it."""


class NoSuchEvaluation(EvaluationError):
    """A reference that fits no finished evaluation, or several."""
