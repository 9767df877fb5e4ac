"""Islands of a table: fit, score, name the island of each row, and draw new rows.

Run: python examples/islands.py
"""

from __future__ import annotations

import numpy as np

from modeflow import NVF
from modeflow.data import toy

shapes = toy("shapes")  # six islands, none of them an ellipse; its density is known
rows, island = shapes.sample_with_labels(1000, seed=0)
new, _ = shapes.sample_with_labels(1000, seed=1)

# Everything can be chosen by the model itself: NVF(). Given here, so that the example is quick.
model = NVF(n_states=6, flow="nsf-coupling", max_epochs=30, random_state=0).fit(rows)

print("log-density of new rows:", model.likelihood_of(new))
print("under the truth:        ", round(float(shapes.log_prob(new).mean()), 3))
print("states and their shares:", np.round(model.weights_, 2))
print("rows of the first state:", np.unique(island[model.predict(rows) == 0], return_counts=True))
print("the strangest new row:  ", new[model.score_samples(new).argmin()].round(2))

drawn, states = model.sample(5, random_state=0)
print("new rows, each with its state:\n", np.column_stack([drawn.round(2), states]))
