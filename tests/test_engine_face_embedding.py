"""Likeness: the crop holds what the recogniser reads, agrees with the whole picture, and leads back to the latents."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from packs import photo_of
from PIL import Image
from torch.nn import functional as F

from pmagic.bases import loading
from pmagic.engine import face_embedding, face_selection, mapper, memory, randomness, subject, token_batch, training
from pmagic.engine.recipes import settings_for
from pmagic.engine.subject import Subject
from pmagic.errors import UsageError
from pmagic.vision import recogniser

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def known(faced_base: loading.Base) -> Subject:
    return subject.encode_photos(faced_base, [photo_of((7, 8))], ["a" * 64], word="face")


def test_the_box_is_what_alignment_reads() -> None:
    """Pixels outside of the box change nothing, pixels just inside do."""
    landmarks = torch.tensor([[[24.0, 24.0], [40.0, 24.0], [32.0, 31.0], [26.0, 38.0], [38.0, 38.0]]])
    left, top, right, bottom = face_embedding.aligned_box(landmarks, 64)[0].tolist()
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cut = torch.full_like(picture, 0.5)
    inside = (..., slice(int(top), int(bottom) + 2), slice(int(left), int(right) + 2))
    cut[inside] = picture[inside]
    torch.testing.assert_close(recogniser.align(cut, landmarks), recogniser.align(picture, landmarks))
    assert 0 < left < 24 and 40 < right < 64 and 0 < top < 24 and 38 < bottom < 64
    beyond = face_embedding.aligned_box(landmarks + torch.tensor([20.0, 0.0]), 64)[0].tolist()
    assert beyond[2] == pytest.approx(64, abs=1) and beyond[0] > 30  # cut by the picture's edge on the right alone


def test_the_whole_margin_decodes_the_whole_picture(faced_base: loading.Base, known: Subject) -> None:
    """The very steps of the definition, written out."""
    vae = faced_base.pipeline.vae
    latents = known.mean * vae.config.scaling_factor
    look = face_embedding.open_face_embedder(faced_base, known, margin=1.0)
    assert look.side == 8 and look.corners.tolist() == [[0, 0]]
    with torch.no_grad():
        found = look(latents, torch.tensor([0]))
        pixels = vae.decode(known.mean).sample
        expected = look.network(recogniser.align(pixels, known.landmarks))
    torch.testing.assert_close(found, expected)


def test_a_crop_is_where_the_face_is(faced_base: loading.Base, known: Subject) -> None:
    look = face_embedding.open_face_embedder(faced_base, known, margin=0.0)
    assert look.side < 8
    column, row = look.corners[0].tolist()
    inside = (known.landmarks[0] / 4 >= torch.tensor([column, row])) & (
        known.landmarks[0] / 4 <= torch.tensor([column, row]) + look.side
    )
    assert inside.all()


def test_crop_and_whole_are_compared_by_embedding_and_gradient(faced_base: loading.Base, known: Subject) -> None:
    small, whole = face_embedding.agreements(faced_base, known, (1 / 8, 1.0))
    assert small.side < whole.side == 8
    assert (whole.embedding, whole.gradient) == (pytest.approx(1.0), pytest.approx(1.0))
    assert -1 <= small.embedding <= 1 and -1 <= small.gradient <= 1


def test_each_row_is_looked_at_with_its_own_photos_face(faced_base: loading.Base) -> None:
    photos = [photo_of((4, 5)), photo_of((10, 9))]
    faces = face_selection.select_faces(faced_base.spec, photos, ["a", "b"], alike=-1.0)
    both = subject.encode_photos(faced_base, photos, ["a" * 64, "b" * 64], word="face", known=faces)
    look = face_embedding.open_face_embedder(faced_base, both)
    latents = both.mean * faced_base.pipeline.vae.config.scaling_factor
    with torch.no_grad():
        found = look(latents[[1, 0]], torch.tensor([1, 0]))
        alone = torch.cat([look(latents[[k]], torch.tensor([k])) for k in (1, 0)])
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


def test_faces_in_turn_have_the_slopes_of_faces_at_once(
    faced_base: loading.Base, known: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the definition followed back by autograd, with a weight of its own for each row."""
    look = face_embedding.open_face_embedder(faced_base, known)
    noise = torch.randn(3, *known.mean.shape[1:], generator=torch.Generator().manual_seed(0))
    latents = faced_base.pipeline.vae.config.scaling_factor * known.mean + 0.3 * noise
    photo, weights = torch.zeros(3, dtype=torch.long), torch.tensor([1.0, 0.0, -2.0])
    decoded: list[int] = []
    look.decoder.register_forward_pre_hook(lambda module, given: decoded.append(len(given[0])))

    def slopes(apart: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        given = latents.clone().requires_grad_()
        values = apart(given)
        (weights * values).sum().backward()
        return values.detach(), given.grad

    expected = slopes(lambda given: 1 - F.cosine_similarity(look(given, photo), known.likeness, dim=-1))
    for pixels, at_once in ((512 * 512, [3]), ((2 * look.side * 4) ** 2 // 2, [2, 1]), (1, [1, 1, 1])):
        decoded.clear()
        monkeypatch.setattr(face_embedding, "DECODED_AT_ONCE", pixels)
        torch.testing.assert_close(
            slopes(lambda given: look.identity_distance(given, photo)), expected, rtol=1e-3, atol=1e-5
        )
        assert decoded == at_once
    assert expected[1][0].abs().max() > 0


@pytest.mark.parametrize("mixed", [True, False])
def test_faces_are_decoded_in_the_fast_type_and_the_base_keeps_its_own(
    faced_base: loading.Base, known: Subject, mixed: bool
) -> None:
    vae, fast = faced_base.pipeline.vae, replace(faced_base, compute_dtype=torch.bfloat16, fp32_norms=mixed)
    before = loading.weights_hash(faced_base.pipeline)
    latents = known.mean * vae.config.scaling_factor
    look = face_embedding.open_face_embedder(fast, known, margin=1.0)
    with torch.no_grad():
        found = look(latents, torch.tensor([0]))
        exact = face_embedding.open_face_embedder(faced_base, known, margin=1.0)(latents, torch.tensor([0]))
        with torch.autocast("cpu", torch.bfloat16):
            pixels = vae.decode((latents / vae.config.scaling_factor).contiguous()).sample
        cast = look.network(recogniser.align(pixels.float(), known.landmarks))
    assert F.cosine_similarity(found, exact).item() > 0.99
    assert torch.equal(found, cast) or not mixed  # the very bits of autocast, with its work done once
    assert {weight.dtype for weight in look.decoder.parameters()} == (
        {torch.bfloat16, torch.float32} if mixed else {torch.bfloat16}
    )
    assert loading.weights_hash(faced_base.pipeline) == before


def test_the_gradient_reaches_the_learner_and_nothing_frozen(faced_base: loading.Base, known: Subject) -> None:
    settings = settings_for("paper", {}, **tiny.train_step(bounds=(100, 300), losses={"identity": 1.0}))
    context = training.prepare_training(faced_base, known, settings)
    learner = mapper.fresh(token_batch.word_embedding(faced_base, "face"), known.image_embedding, settings)
    draw = randomness.sample_step(settings, 0, 1, known.mean.shape[1:], torch.float32)
    _, values = training.optimizer_step(
        training.make_train_step(context, learner), training.make_optimizer(learner, settings), draw
    )
    assert 0 < values["identity"] < 2
    assert learner.dynamic_out.weight.grad.abs().max() > 0
    frozen = [*context.face_embedder.network.buffers(), *context.face_embedder.network.parameters()]
    for name in loading.models_of(faced_base.pipeline):
        frozen += getattr(faced_base.pipeline, name).parameters()
    assert all(each.grad is None for each in frozen)


@pytest.mark.parametrize("mixed", [None, True, False])
def test_decoding_again_gives_the_same_gradients(
    faced_base: loading.Base, faced_folder: Path, known: Subject, mixed: bool | None
) -> None:
    """mixed: of a base in the fast type; None is its own."""
    base = faced_base if mixed is None else tiny.open_fast(faced_folder, fp32_norms=mixed)
    settings = settings_for("paper", {}, **tiny.train_step(bounds=(100, 300), losses={"identity": 1.0}))
    draw = randomness.sample_step(settings, 0, 1, known.mean.shape[1:], torch.float32)
    calls: list[None] = []
    found = []
    for within in (nullcontext(), memory.gradient_checkpointing(base.pipeline)):
        learner = mapper.fresh(token_batch.word_embedding(base, "face"), known.image_embedding, settings)
        with within:
            context = training.prepare_training(base, known, settings)
            block = context.face_embedder.decoder[-1].up_blocks[0].resnets[0]
            hook = block.register_forward_pre_hook(lambda *given: calls.append(None))
            training.make_losses(context, learner)(draw)
            hook.remove()
        found.append([weight.grad for weight in learner.parameters()])
    assert len(calls) == 3  # once as usual, twice where memory is saved
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))
    assert any(each.abs().max() > 0 for each in found[0])
    assert not any(each.training for each in base.pipeline.vae.modules())


def test_learning_lowers_the_identity_loss_of_the_same_draw(faced_base: loading.Base, known: Subject) -> None:
    settings = settings_for(
        "paper", {}, **tiny.train_step(bounds=(100, 300), losses={"identity": 1.0}, residual_dropout=0.0)
    )
    context = training.prepare_training(faced_base, known, settings)
    learner = mapper.fresh(token_batch.word_embedding(faced_base, "face"), known.image_embedding, settings)
    optimizer = training.make_optimizer(learner, settings)
    draw = randomness.sample_step(settings, 0, 1, known.mean.shape[1:], torch.float32)
    losses = [
        training.optimizer_step(training.make_train_step(context, learner), optimizer, draw)[0] for _ in range(15)
    ]
    assert losses[-1] < losses[0]


def test_a_right_prediction_of_the_photo_is_recognised(faced_base: loading.Base, known: Subject) -> None:
    """With the photo's own latents the only distance left is what the autoencoder loses."""
    look = face_embedding.open_face_embedder(faced_base, known, margin=1.0)
    vae = faced_base.pipeline.vae
    with torch.no_grad():
        seen = look(known.mean * vae.config.scaling_factor, torch.tensor([0]))
        copy = vae.decode(known.mean).sample.clamp(-1, 1)
    pixels = ((copy[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    pack = face_selection.open_pack(faced_base.spec)
    face = pack.find(photo_of((7, 8)))[0]
    here = type(face)(face.box, known.landmarks[0].numpy(), face.score)
    expected = torch.from_numpy(pack.embed(Image.fromarray(pixels), [here])[0])
    assert F.cosine_similarity(seen[0], expected, dim=0) > 0.99


def test_a_subject_without_a_face_has_no_identity(faced_base: loading.Base, tiny_base: loading.Base) -> None:
    with pytest.raises(UsageError, match="needs a face"):
        face_embedding.open_face_embedder(faced_base, tiny.known(tiny_base))
