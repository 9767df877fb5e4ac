"""Train the small classifier whose features `modeflow.metrics.small_features` uses, and store its weights.

Training sets of MNIST and Fashion-MNIST, and the small background sets of Omniglot (alphabets): 28 classes.
Run once: python benchmarks/train_features.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from modeflow.data import load_images
from modeflow.nets.features import SmallClassifier

TARGET = Path(__file__).parents[1] / "src" / "modeflow" / "metrics" / "small_features.safetensors"
SETS = ("images/mnist", "images/fashion-mnist", "images/omniglot-small")


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """All training images, and their classes numbered through."""
    images, labels, first = [], [], 0
    for name in SETS:
        data = load_images(name)
        assert data.labels is not None
        scale = 255 if data.images.max() > 1 else 1
        images.append(data.images[..., 0].astype(np.float32) / scale)
        labels.append(data.labels + first)
        first += len(data.classes)
    return torch.from_numpy(np.concatenate(images)).unsqueeze(1), torch.from_numpy(np.concatenate(labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    x, y = rows()
    order = torch.randperm(len(x))
    held, train = order[:5000], order[5000:]
    net = SmallClassifier(int(y.max()) + 1, channels=16)
    steps = args.epochs * (len(train) // 256)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(args.epochs):
        for batch in train[torch.randperm(len(train))].split(256):
            if len(batch) < 256:
                continue
            loss = F.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            right = (net.eval()(x[held]).argmax(1) == y[held]).float().mean()
        net.train()
        print(f"held-out accuracy {float(right):.4f}")
    save_file({k: v.half() for k, v in net.state_dict().items()}, TARGET)
    print(f"wrote {TARGET}, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
