"""A page on which a run is looked at: rows beside samples, the density of two columns, conditions, reasons.

`axes`, `views`, `maps` and `figures` know nothing of a browser; `layout`, `callbacks` and `page` need the
extra ``modeflow[explore]``.
"""
