"""The arrays of a product, as annotations.

A kernel multiplies a matrix of compressed rows by a table. The matrix has ``rows`` rows and
``nodes`` columns. They are the same number, unless a device holds some of the rows alone.
"""

from __future__ import annotations

from jaxtyping import Array, Float, Int

Values = Float[Array, " entries"]
Columns = Int[Array, " entries"]
Pointers = Int[Array, " rows_and_one"]
Table = Float[Array, "nodes dim"]
Rows = Float[Array, "rows dim"]
Scale = Float[Array, ""]

Matrix = tuple[Array, ...]
"""Values, columns and pointers, as `BCSR` has them.

A graph that is split among devices has one of each for every part (a leading axis), and a fourth
array where rows travel by a halo exchange: which rows each part sends.
"""
