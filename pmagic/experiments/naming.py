"""How much of a face the base takes from its name: the quickest and most reliable sign of training progress.

    python -m pmagic.experiments.naming [WORK]

Pictures of people outside the training set are noised. The noise is predicted with the person's own name (embeddings of
their traits, see base_networks.Names), with a stranger's name, and with the plain word "face". The growth of the error
measures what the name contributes.
"""

# N pictures . S text positions . w text width

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from pmagic.experiments import measuring
from pmagic.mini import base_material, base_networks, train_base, train_vae
from pmagic.mini.base_material import NAMES_A_CAPTION
from pmagic.mini.base_networks import NAME_TOKENS, WIDTH
from pmagic.mini.train import WEIGHTS
from pmagic.world.drawing import draw
from pmagic.world.people import HELD_OUT, person, trait_vector
from pmagic.world.scenes import MARK, rng_for
from pmagic.world.versions import WORLDS

FIRST = HELD_OUT + 9000
TIMES = (200, 400, 600, 800, 950)


def pictures(count: int, version: int = 1) -> tuple[np.ndarray, list[str], Tensor]:
    """Photos (N, side, side, 3) of strangers in random scenes, their captions with a mark, and their traits."""
    world = WORLDS[version]
    images, captions, traits = [], [], torch.zeros(count, NAMES_A_CAPTION, len(trait_vector(person(0))))
    for k in range(count):
        who, where = person(FIRST + k), replace(world.scene(rng_for(99, k)), style="photo")
        images.append(draw([(who, where)], side=world.side).image)
        captions.append(world.caption(who, where, rng_for(98, k), MARK))
        traits[k, 0] = torch.from_numpy(trait_vector(who))
    return np.stack(images), captions, traits


@torch.no_grad()
def measure(folder: Path, people: int, version: int = 1) -> Iterator[tuple[int, float, float, float]]:
    """Timestep, error with the own name, and the error's relative growth with a stranger's name and without a name.

    folder: holds the base and the names of a finished training (train_base.export).
    """
    networks, vae = train_base.load_exported(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "base" / "tokenizer", local_files_only=True)
    images, captions, traits = pictures(people, version)
    latents = train_vae.encode(vae, train_vae.as_tensor(images)).mean * vae.config["scaling_factor"]
    named = base_material.read(tokenizer, captions)
    plain = base_material.read(tokenizer, [each.replace(MARK, "face") for each in captions])
    still = torch.zeros(people, NAMES_A_CAPTION * NAME_TOKENS, WIDTH)
    said = [
        networks.say(named.ids.long(), named.placeholder_index.long(), each, still)
        for each in (traits, traits.roll(7, dims=0))
    ]
    said.append(networks.text(plain.ids.long()).last_hidden_state)
    scheduler = base_networks.noise_schedule()
    for time in TIMES:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(time))
        t = torch.full((people,), time)
        noisy = scheduler.add_noise(latents, noise, t)
        own, other, none = ((networks.unet(noisy, t, each).sample - noise).square().mean().item() for each in said)
        yield time, own, other / own - 1, none / own - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", default=WEIGHTS, help="the shipped weights otherwise")
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--world", type=int, choices=WORLDS, default=1, help="the version that WORK was trained on")
    arguments = parser.parse_args()
    measuring.require(parser, arguments.work, ["base", "names"])
    print("| t | error | a stranger's name | no name |\n|---|---|---|---|")
    for when, error, stranger, nobody in measure(arguments.work, arguments.people, arguments.world):
        print(f"| {when} | {error:.4f} | {stranger:+.1%} | {nobody:+.1%} |")
