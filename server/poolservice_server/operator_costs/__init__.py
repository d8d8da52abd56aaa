"""The costs of the operators that have no estimate of their own in `stage_cost`, without torch.

Each function returns the steps, which are nanoseconds on one core of the reference machine, and the floats of the
intermediates at the peak. `operators.OPERATORS` names one for each operator.
"""
