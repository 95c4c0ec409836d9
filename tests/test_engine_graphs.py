"""CUDA graphs: a recorded step is the step itself."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from pmagic.bases import loading, model_spec
from pmagic.engine import face_embedding, mapper, randomness, recipes, subject, token_batch, training
from pmagic.mini.train import WEIGHTS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.mark.parametrize(
    "losses", [("masked_mse", "tandem_equilibrium"), ("masked_mse", "tandem_equilibrium", "identity")]
)
def test_a_recorded_step_leaves_the_gradients_of_the_step(
    losses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_embedding, "DECODED_AT_ONCE", 1)  # one face after the other, as of large pictures
    base = loading.load(model_spec.resolve("mini"), device="cuda")
    photo = Image.open(WEIGHTS.parent / "portraits" / "alice.png").convert("RGB")
    seen = subject.encode_photos(base, [photo], ["0" * 64], word="face", mask=Image.new("L", photo.size, 255))
    settings = replace(recipes.settings_for("reference", base.spec.defaults), losses=dict.fromkeys(losses, 1.0))
    context = training.prepare_training(base, seen, settings)
    learner = mapper.fresh(token_batch.word_embedding(base, "face"), seen.image_embedding, settings)
    recorded, plain = training.make_train_step(context, learner), training.make_losses(context, learner)
    assert recorded.losses is not plain
    for step in range(3):
        draw = randomness.sample_step(settings, step, 1, seen.mean.shape[1:], seen.mean.dtype)
        loss, _ = plain(draw)
        slopes = [weight.grad.clone() for weight in learner.parameters()]
        again, _ = recorded.losses(draw)
        assert again.item() == pytest.approx(loss.item(), rel=1e-4)
        for weight, slope in zip(learner.parameters(), slopes, strict=True):
            assert torch.allclose(weight.grad, slope, rtol=1e-2, atol=1e-3 * float(slope.abs().max()) + 1e-12)
