"""Custom Diffusion against the numbers of its published programs: the training step, the masks of placed photos."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from torch import Tensor

from pmagic import methods
from pmagic.bases.loading import Base
from pmagic.engine import augmentation, reweighting, training
from pmagic.engine.hooks import exchanged_parameters
from pmagic.losses import StepOutput, masked_mse, prior

pytest_plugins = ["tiny"]

GOLDEN = Path(__file__).parent / "golden" / "methods" / "custom_diffusion.safetensors"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return safetensors.torch.load_file(GOLDEN)


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The recipe of golden/methods/README.md."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    bits = np.random.Philox(key=key).random_raw(math.prod(shape))
    raw = (2.0 * ((bits >> np.uint64(11)).astype(float) * 2.0**-53) - 1.0).reshape(shape)
    if len(shape) >= 2:
        return torch.from_numpy(raw * np.sqrt(3.0 / math.prod(shape[1:])))
    return torch.from_numpy(1.0 + 0.1 * raw if name.endswith(".weight") else 0.1 * raw)


def test_a_step_with_class_pictures_is_that_of_the_published_example(golden: dict[str, Tensor]) -> None:
    """Loss, its prior term, and the gradients of projections and text; the start of the text gets none."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, attention_head_dim=2,
    ).double()  # fmt: skip
    own = {name: weight(f"unet.custom/{name}", tuple(each.shape)) for name, each in unet.named_parameters()}
    unet.load_state_dict(own)
    assert sum(each.sum() for each in own.values()).item() == pytest.approx(golden["step.check.sum.unet"].item())
    names = reweighting.select_names(unet, "cross-kv")
    difference = reweighting.WeightDifference(unet, names)
    with torch.no_grad():
        for name in names:
            part = difference.parts[name.replace(".", "/")]
            part.copy_(0.1 * weight(f"difference/{name}", tuple(part.shape)))
    text = golden["step.text"].clone().requires_grad_()
    with exchanged_parameters(unet, difference.weights()), reweighting.without_start_gradient(unet, names):
        (noise,) = unet(golden["step.noisy"], golden["step.t"].long(), encoder_hidden_states=text, return_dict=False)
        empty = torch.zeros(1, 9, 24)
        output = StepOutput(
            t=golden["step.t"][:1], latents=golden["step.latents"][:1], noisy=golden["step.noisy"][:1],
            prediction=noise[:1], target=golden["step.noise"][:1], mask=golden["step.mask"][:1], keys=empty,
            values=empty, class_prediction=noise[1:], class_target=golden["step.noise"][1:],
        )  # fmt: skip
        person, of_class = 4 * masked_mse.loss(output).mean(), prior.loss(output).mean()  # the example's own ratio
        (person + of_class).backward()
    assert torch.allclose(noise, golden["step.noise_hat"], rtol=0, atol=1e-5)
    assert of_class.item() == pytest.approx(golden["step.prior"].item(), rel=1e-5)
    assert (person + of_class).item() == pytest.approx(golden["step.loss.1.0"].item(), rel=1e-5)
    assert (person + 0.5 * of_class).item() == pytest.approx(golden["step.loss.0.5"].item(), rel=1e-5)
    assert text.grad is not None and text.grad[:, 0].abs().max() == 0
    assert torch.allclose(text.grad, golden["step.grad.text"], rtol=0, atol=1e-6)
    for name in names:
        gradient, rows = difference.parts[name.replace(".", "/")].grad, golden[f"step.grad.{name}"]
        assert torch.allclose(gradient[: len(rows)], rows, rtol=0, atol=1e-6), name
        assert gradient.norm().item() == pytest.approx(golden[f"step.grad.{name}.norm"].item(), rel=1e-5)


def test_masks_and_pixels_of_placed_photos_are_the_examples(golden: dict[str, Tensor]) -> None:
    """At 512 pixels and 64 cells. A placed photo has no loss in its outermost ring of cells."""
    rows = golden["mask.example"].tolist()
    assert len(rows) == 6
    for side, top, left, *edges in rows:
        first, last, left_cell, right_cell, upper, lower, left_pixel, right_pixel = edges
        mask = torch.zeros(1, 1, 64, 64)
        mask[..., first:last, left_cell:right_cell] = 1
        view = augmentation.View(side, top, left, "")
        if side <= 512:
            assert torch.equal(augmentation.placed_mask(side, top, left, 512, 64), mask)
        else:
            assert torch.equal(augmentation.view_mask(view, 512, 64), mask)
        shown = augmentation.view_pixels(torch.ones(1, 3, 512, 512), view)
        bright = torch.full((1, 3, 512, 512), -1.0)
        bright[..., upper:lower, left_pixel:right_pixel] = 1
        assert torch.allclose(shown, bright, atol=1e-5)


def test_views_are_of_the_published_shares_and_sizes() -> None:
    views = augmentation.sample_views(3000, 512, 8, seed=1)
    assert views == augmentation.sample_views(3000, 512, 8, seed=1) != augmentation.sample_views(3000, 512, 8, seed=2)
    near, far = ([each for each in views if each.prefix in words] for words in (augmentation.NEAR, augmentation.FAR))
    whole = [each for each in views if each.prefix == ""]
    assert len(near) == 1000
    assert {each.side for each in whole} == {512}
    # Of two thirds of the views, scales from a third to 0.6 are placed: 0.267 / 0.667 of them.
    assert len(far) / 2000 == pytest.approx(0.4, abs=0.03)
    assert all(614 <= each.side <= 717 and each.top <= each.side - 512 for each in near)
    assert all(170 <= each.side < 308 and each.top + each.side <= 512 and each.left + each.side <= 512 for each in far)
    for words in (augmentation.NEAR, augmentation.FAR):
        assert {each.prefix for each in views} >= set(words)
    small = augmentation.sample_views(300, 32, 4, seed=0)  # a base of few cells: something of each photo is left
    assert all(augmentation.view_mask(each, 32, 8).any() for each in small)


def test_an_enlarged_photo_is_cut_where_the_view_says() -> None:
    photo = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    shown = augmentation.view_pixels(photo, augmentation.View(80, 3, 10, ""))
    column = torch.arange(64) + 10
    assert torch.allclose(shown[0, 0, 0], ((column + 0.5) / 80 * 64 - 0.5) / 63 * 2 - 1, atol=0.02)


def test_training_reads_the_views_with_their_masks_and_words(tiny_base: Base) -> None:
    subject = tiny.known(tiny_base, (0,))
    shown = augmentation.augmented(tiny_base, subject, seed=3)
    views = augmentation.sample_views(augmentation.VIEWS, tiny_base.size, 4, seed=3)
    assert len(shown.mean) == len(shown.mask) == len(shown.image_embedding) == augmentation.VIEWS
    assert torch.allclose(shown.mean[0], subject.mean[0], atol=1e-5)  # the first view is the photo as it is
    assert shown.mask[0].all() and shown.hashes == subject.hashes and shown.pixels is None
    assert not torch.allclose(shown.mean[2], subject.mean[0], atol=1e-3)
    settings = methods.take("custom_diffusion").settings_for("reference", {})
    assert settings.augment and settings.as_table()["augment"] is True
    context = training.prepare_training(tiny_base, shown, settings)
    assert len(context.templates.ids) == len(augmentation.PREFIXES)
    far = next(number for number, each in enumerate(views) if each.prefix == "a far away ")
    sample = training.sample_of_step(shown, settings, 0)
    sample.photo[:] = far
    seen: list[Tensor] = []
    text_encoder = tiny_base.pipeline.text_encoder
    handle = text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["input_ids"]), with_kwargs=True
    )
    try:
        output = training.forward_step(
            context, methods.take("custom_diffusion").make_learner(tiny_base, subject, settings), sample
        )
    finally:
        handle.remove()
    wanted = tiny_base.pipeline.tokenizer("a far away photo of a", add_special_tokens=False).input_ids
    assert seen[0][0, 1 : 1 + len(wanted)].tolist() == wanted
    assert torch.equal(output.mask[0], augmentation.view_mask(views[far], tiny_base.size, 8)[0])
    plain = augmentation.augmented(tiny_base, subject, seed=4)
    assert not torch.equal(plain.mean, shown.mean)


def test_augmentation_is_a_default_that_can_be_left_out(tiny_base: Base) -> None:
    method, own = methods.take("custom_diffusion"), {"learn": {"custom_diffusion": {"augment": False}}}
    tables = [method.settings_for("reference", each, **tiny.train_step()) for each in ({}, own)]
    assert [each.augment for each in tables] == [True, False] and "augment" not in tables[1].as_table()
    with_views, without = (method.learn(tiny_base, tiny.known(tiny_base), each) for each in tables)
    assert with_views.photos == without.photos
    assert any(not np.array_equal(array, without.tensors[key]) for key, array in with_views.tensors.items())
    for name in ("lora", "dreambooth", "custom_personamagic"):
        assert not methods.take(name).settings_for("reference", {}).augment
