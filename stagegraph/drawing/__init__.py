"""Pictures of stage graphs and of their runs: plain text out of plain values, no torch.

A graph and a run's records go in; Mermaid, DOT, SVG, HTML or terminal text comes out. The way
there: :mod:`~stagegraph.drawing.history` reads the records, :mod:`~stagegraph.drawing.chart` says
what is to be seen, and one module per kind of picture writes it down.
"""
