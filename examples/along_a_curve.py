"""Data along a curve: a continuous latent says where on it each row lies; two posteriors side by side.

Run: python examples/along_a_curve.py
"""

from __future__ import annotations

import numpy as np

from modeflow import NVF

rng = np.random.default_rng(0)
place = rng.uniform(0, 1, 600)
curve = np.column_stack([np.cos(4 * place), np.sin(4 * place), 2 * place])
rows = curve + 0.05 * rng.normal(size=curve.shape)

for posterior in ("gaussian", "iaf"):
    model = NVF(
        latent="continuous", latent_options={"features": 1, "posterior": posterior, "draws": 8},
        flow="nsf-coupling", flow_options={"layers": 2}, max_epochs=10, random_state=0,
    ).fit(rows[:500])  # fmt: skip
    where, spread = model.encode(rows[500:], return_std=True)
    agreement = abs(np.corrcoef(where[:, 0].argsort().argsort(), place[500:].argsort().argsort())[0, 1])
    print(
        f"{posterior:14} {model.likelihood_of(rows[500:])}; rank correlation of z with the place on the "
        f"curve {agreement:.3f}, spread of z {spread.mean():.2f}"
    )
