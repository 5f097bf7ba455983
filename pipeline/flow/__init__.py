"""The kernel: a run is a list of steps, and a step is skipped where its marker is there.

A step reads files that earlier steps wrote, and writes files of its own into a folder; its verbs are `tasks`
(each task on its own), `shuffle` (rows brought together by partition) and `thresholds` (each query's k-th
smallest priority), the methods of `runner.Runner`. Each finished task leaves NAME.json, its marker, last of
its files. Whoever continues the run, on this machine (`local`) or on a Beam runner (`beam_runner`), reads the
markers and does the rest.
"""
