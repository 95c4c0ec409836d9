"""Joint training: several subjects at once, each with an embedding of its own, all with one weight difference.

This is how Custom Diffusion learns several concepts for one picture. Each step has samples of every subject, one after
the other, so it takes no more memory than one subject alone. It is not captured as a CUDA graph.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmagic.engine import checkpoint, training
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.training import StepReport, TrainingContext, TrainStep
from pmagic.errors import UsageError


class JointLearner(nn.Module):
    """The learners of all subjects; what they share is trained once, with the sum of its gradients."""

    def __init__(self, learners: Sequence[nn.Module]) -> None:
        super().__init__()
        self.learners = nn.ModuleList(learners)

    def groups(self, settings: LearnSettings) -> list[dict[str, Any]]:
        """The optimizer's groups of all learners, each parameter once."""
        seen: set[int] = set()
        found = []
        for learner in self.learners:
            for group in learner.groups(settings):  # pyright: ignore[reportCallIssue]
                own = [each for each in group["params"] if id(each) not in seen]
                seen.update(map(id, own))
                if own:
                    found.append({**group, "params": own})
        return found


def divided(settings: LearnSettings, subjects: int, *, same_steps: bool) -> LearnSettings:
    """The settings of one of several subjects: its part of the batch, in as many more steps.

    So each subject has about as many samples as alone. same_steps: the number of steps was asked for, and stays.
    """
    steps = settings.iterations * (1 if same_steps else subjects)
    return replace(settings, batch=max(1, settings.batch // subjects), iterations=steps)


def train(
    contexts: Sequence[TrainingContext],
    learners: Sequence[nn.Module],
    on_step: Callable[[StepReport], None] = lambda report: None,
    saved: Path | None = None,
) -> list[dict[str, float]]:
    """Train the learners in place; returns the running mean of each loss term, by subject. See training.train.

    The loss is the mean over the subjects, and a report has the mean of each term over the subjects that have it. The
    first context decides the number of steps, the rates and the clipping. Raises UsageError for a compiled UNet.
    """
    first, joint = contexts[0], JointLearner(learners)
    if first.base.compiled:
        raise UsageError("--compile does not go with a method that trains weights", "leave out --compile")
    identity = " ".join(training.run_id(each, learner) for each, learner in zip(contexts, learners, strict=True))
    observed = {
        f"{number}.{name}": tensor
        for number, context in enumerate(contexts)
        for name, tensor in training.observed_inputs(context).items()
    }
    keeper = None if saved is None else checkpoint.Checkpoint(saved, identity, observed)

    def losses(samples: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        for weight in joint.parameters():
            weight.grad = None
        loss, values = torch.zeros((), device=first.base.device), {}
        for number, (context, learner, sample) in enumerate(zip(contexts, learners, samples, strict=True)):
            part, terms = training.add_gradients(context, learner, sample, share=1 / len(contexts))
            loss = loss + part
            values |= {f"{number}.{name}": value for name, value in terms.items()}
        return loss, values

    def sample(step: int) -> list[Any]:
        # Each subject has timesteps and noise of its own.
        return [
            training.sample_of_step(each.subject, replace(each.settings, seed=each.settings.seed + number), step)
            for number, each in enumerate(contexts)
        ]

    def report(each: StepReport) -> None:
        on_step(replace(each, losses=_mean_terms(each.losses)))

    running = training.run_steps(TrainStep(first, joint, losses), sample, report, keeper)
    return [{name: running[f"{number}.{name}"] for name in context.losses} for number, context in enumerate(contexts)]


def _mean_terms(losses: Mapping[str, float]) -> dict[str, float]:
    """The mean of each term over the subjects, from `NUMBER.TERM`."""
    of: dict[str, list[float]] = {}
    for name, value in losses.items():
        of.setdefault(name.partition(".")[2], []).append(value)
    return {name: sum(values) / len(values) for name, values in of.items()}
