"""The tables of operators agree with one another."""

from poolservice.specs import OPERATORS as SPEC_OPERATORS
from poolservice_server.operators import OPERATORS, ORDER_STATISTICS
from poolservice_server.pooling.dispatch import KERNELS
from poolservice_server.pooling.torch_operators import FUNCTIONS


def test_every_operator_of_the_contract_can_be_computed() -> None:
    assert set(OPERATORS) == set(SPEC_OPERATORS)
    assert set(FUNCTIONS) | {"sequential"} == set(SPEC_OPERATORS)
    assert set(OPERATORS) >= ORDER_STATISTICS
    assert set(KERNELS) == {name for name, operator in OPERATORS.items() if operator.stacks}
