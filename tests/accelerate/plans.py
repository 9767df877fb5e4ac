"""How tests look into a flow's plan."""

from __future__ import annotations

import torch


def parts_of(flow):
    """Runs and single layers of the flow's transform, as it is now."""
    with torch.no_grad():
        context = torch.zeros(1, flow.context_features) if flow.context_features else None
        flow.log_prob(torch.zeros(1, *flow.event_shape), context)
    return flow.transform._plan.parts(flow.transform.transforms)
