"""The optimiser takes the steps of torch's, without its compiler."""

from __future__ import annotations

import subprocess
import sys

import torch

from modeflow.nets.adam import Adam


def run(kind, **options):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(2, 5))
    optimiser = kind([{"params": [p], "scale": 1.0}], lr=0.1, **options)
    for k in range(6):
        optimiser.zero_grad()
        (p.sin() * (k + 1)).sum().backward()
        optimiser.step()
        if k == 2:
            optimiser.load_state_dict(optimiser.state_dict())
    return p.detach()


def test_its_steps_are_those_of_torch_to_the_last_bit():
    decayed = {"weight_decay": 0.1, "fused": True}
    assert torch.equal(run(Adam, **decayed), run(torch.optim.AdamW, **decayed))
    assert torch.equal(run(Adam, weight_decay=0.0), run(torch.optim.Adam))


def test_a_fit_loads_no_compiler():
    code = (
        "import sys, numpy as np; from modeflow import NVF\n"
        "x = np.random.default_rng(0).normal(size=(60, 2))\n"
        "NVF(2, max_epochs=1, flow='nsf-coupling', flow_options={'layers': 1}).fit(x)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
