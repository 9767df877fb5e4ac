"""A fitted model behind HTTP: scores, samples, filled cells and states as JSON or Arrow.

`modeflow.serving.app` and `modeflow.serving.launch` need the extra ``modeflow[serve]``; the rest does not.
"""
