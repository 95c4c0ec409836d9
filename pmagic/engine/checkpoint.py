"""Checkpoint: the state of an unfinished training run in one safetensors file, from which it resumes bit for bit.

It holds the learner's weights, both moments of AdamW, the running losses and the step. It needs no random state: all
random values follow from the seed and the step (see randomness).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pmagic import atomic_io
from pmagic.errors import BundleDamaged, Incompatible, NumericFailure

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's own names
# With another number of threads, the same mask or embedding differs in its last bits; another photo's differ by more.
LIKE = 1e-3


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file and the run that may resume from it.

    identity: training.run_id of that run. observed: its training.observed_inputs.
    """

    path: Path
    identity: str
    observed: Mapping[str, Tensor] = field(default_factory=dict)

    def save(
        self, step: int, running: Mapping[str, float], learner: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Replace the file atomically, once the new one is on disk.

        Raises StorageFailed, and NumericFailure rather than overwrite the last good state with NaN.
        """
        tensors = {f"running.{name}": torch.tensor(value, dtype=torch.float64) for name, value in running.items()}
        tensors |= {f"observed.{name}": tensor for name, tensor in self.observed.items()}
        for name, weight in learner.named_parameters():
            tensors[f"learner.{name}"] = weight.detach()
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = optimizer.state[weight][moment]
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        spoilt = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
        if spoilt is not None:
            raise NumericFailure(
                f"{spoilt} holds NaN or infinity after step {step}", "learn with a smaller learning rate"
            )
        facts = {"identity": self.identity, "step": str(step)}
        data = safetensors.torch.save(tensors, {**facts, "digest": digest([facts], tensors)})
        with atomic_io.storing("the unfinished learning"):
            atomic_io.make_folder(self.path.parent)
            atomic_io.replace_file(self.path, data)

    def restore(self, learner: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, float]]:
        """Restore learner and optimizer; returns the steps done and the running losses, (0, {}) if there is no file.

        Raises BundleDamaged if the file does not verify, Incompatible if another run wrote it.
        """
        if not self.path.exists():
            return 0, {}
        tensors, step = self._verify()
        with torch.no_grad():
            for name, weight in learner.named_parameters():
                weight.copy_(tensors[f"learner.{name}"])
                moments = {moment: tensors[f"{moment}.{name}"].to(weight.device) for moment in MOMENTS}
                optimizer.state[weight] = {"step": torch.tensor(float(step)), **moments}
        prefix = "running."
        return step, {name.removeprefix(prefix): tensors[name].item() for name in tensors if name.startswith(prefix)}

    def _verify(self) -> tuple[dict[str, Tensor], int]:
        remove = f"remove {self.path} to learn from the beginning"
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                stated = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
        except (safetensors.SafetensorError, OSError) as error:
            raise BundleDamaged(f"the unfinished learning in {self.path} cannot be read: {error}", remove) from error
        promised = stated.pop("digest", None)
        if promised != digest([stated], tensors):
            raise BundleDamaged(f"the unfinished learning in {self.path} was changed or cut", remove)
        if stated["identity"] != self.identity or not all(
            _like(tensors.get(f"observed.{name}"), tensor) for name, tensor in self.observed.items()
        ):
            raise Incompatible(
                f"{self.path} holds an unfinished learning of another photo, base, version or settings",
                f"repeat the command it was started with, or {remove}",
            )
        return tensors, int(stated["step"])


def _like(kept: Tensor | None, seen: Tensor) -> bool:
    return kept is not None and kept.shape == seen.shape and torch.allclose(kept, seen.cpu(), rtol=LIKE, atol=LIKE)


def digest(facts: Sequence[object], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over plain values and the bytes of tensors, independent of the order of keys."""
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
