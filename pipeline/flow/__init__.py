"""The kernel: a run is a list of steps, and a step is skipped where its marker is there.

A step (`steps`) reads files that earlier steps wrote, and writes files of its own into a folder. There are
three kinds: `Tasks`, each on its own; `Shuffle`, rows brought together by partition; and `Thresholds`, each
query's k-th smallest priority. Each finished task leaves NAME.json, its marker, last of its files.
`runner.Runner` does the steps that are not done, on this machine (`local`) or as jobs of a Beam runner
(`beam_runner`).
"""
