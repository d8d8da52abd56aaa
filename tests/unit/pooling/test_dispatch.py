"""The table of operators covers the contract."""

from poolservice.specs import OPERATORS as SPEC_OPERATORS
from poolservice_server.operator_shapes import ORDER_STATISTICS
from poolservice_server.pooling.dispatch import OPERATORS


def test_every_operator_of_the_contract_has_a_row() -> None:
    assert set(OPERATORS) == set(SPEC_OPERATORS)
    assert set(OPERATORS) >= ORDER_STATISTICS
