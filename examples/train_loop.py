"""Train a small model of your own on the dataset of own_list.ipynb, stop in the middle, and continue.

The model is a toy: it learns to tell captions with "red" from others. The loop is the point: the reader's
state lies in the checkpoint, so the second half sees exactly the batches that the first half did not.
"""

from pathlib import Path

import torch

import openwit


def train(folder: str, checkpoint: Path, stop_after: int) -> list[str]:
    """Take `steps` steps from the checkpoint on; return the uids of the samples that were seen."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reader = openwit.Reader([folder], batch_size=2, image_size=64, epochs=1, seed=1)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        reader.load_state_dict(saved["reader"])
    seen: list[str] = []
    for step, batch in enumerate(reader, 1):
        wanted = torch.tensor([float("red" in caption) for caption in batch.captions])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch.normalised())[:, 0], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += batch.uids
        if step == stop_after:
            break
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "reader": reader.state_dict()}
    torch.save(states, checkpoint)
    return seen


def main(folder: str = "run") -> None:
    """Train in two parts, and show that no sample was seen twice."""
    checkpoint = Path("toy.pt")
    checkpoint.unlink(missing_ok=True)
    first, second = train(folder, checkpoint, 2), train(folder, checkpoint, 1000)
    print(f"{len(first)} samples, then {len(second)} others; seen twice: {len(set(first) & set(second))}")


if __name__ == "__main__":
    main()
