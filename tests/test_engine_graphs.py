"""CUDA graphs: a recorded step is the step itself."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from pmagic.bases import card, loading
from pmagic.engine import chance, likeness, mapper, recipes, sentences, subject, training
from pmagic.mini.train import WEIGHTS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.mark.parametrize(
    "losses", [("masked_mse", "tandem_equilibrium"), ("masked_mse", "tandem_equilibrium", "identity")]
)
def test_a_recorded_step_leaves_the_gradients_of_the_step(
    losses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeness, "DECODED_AT_ONCE", 1)  # one face after the other, as of large pictures
    base = loading.load(card.find("mini"), device="cuda")
    photo = Image.open(WEIGHTS.parent / "portraits" / "alice.png").convert("RGB")
    seen = subject.observe(base, [photo], ["0" * 64], word="face", mask=Image.new("L", photo.size, 255))
    settings = replace(recipes.settings_for("reference", base.card.defaults), losses=dict.fromkeys(losses, 1.0))
    course = training.course(base, seen, settings)
    learner = mapper.fresh(sentences.word_embedding(base, "face"), seen.image_embedding, settings)
    recorded, plain = training.lesson(course, learner), training.losses_of(course, learner)
    assert recorded.losses is not plain
    for step in range(3):
        draw = chance.draw(settings, step, 1, seen.mean.shape[1:], seen.mean.dtype)
        loss, _ = plain(draw)
        slopes = [weight.grad.clone() for weight in learner.parameters()]
        again, _ = recorded.losses(draw)
        assert again.item() == pytest.approx(loss.item(), rel=1e-4)
        for weight, slope in zip(learner.parameters(), slopes, strict=True):
            assert torch.allclose(weight.grad, slope, rtol=1e-2, atol=1e-3 * float(slope.abs().max()) + 1e-12)
