"""`python -m patio_operator`."""

from patio_operator.app import main

main()
