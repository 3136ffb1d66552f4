"""Writes docs/reference: fields, settings, routes, metrics, reasons, chart values and rights, as the program has them.

`__main__` writes or checks the pages. One module makes one page, as text, from values. `program` alone imports
Patio's packages; the other sources are generated or hand-written files of this tree. Nothing here depends on a
clock, a network or a machine, so that a check finds drift and nothing else."""
