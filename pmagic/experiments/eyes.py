"""Measures the miniature's vision networks on drawn people outside the training set.

    python -m pmagic.experiments.eyes [FOLDER] --pictures 60

FOLDER holds faces_a, faces_b, clipseg, clip and base; by default the shipped weights are measured. All are opened in
the same way as any other pack or model.
"""

# N pictures . F faces

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from pmagic.experiments import measuring
from pmagic.mini import train_clip, train_vae
from pmagic.mini.gallery import boxes
from pmagic.mini.train import WEIGHTS
from pmagic.vision import clip, clipseg, faces, recogniser
from pmagic.world.drawing import Drawing, draw
from pmagic.world.people import HELD_OUT, person
from pmagic.world.scenes import STYLES, Scene, rng_for, scene
from pmagic.world.things import thing
from pmagic.world.versions import WORLDS, World

FIRST = HELD_OUT + 3000
LARGE = 256  # pixels, the size of a portrait
AMONG = 20  # captions per retrieval
Row = tuple[str, str]


def _who(k: int) -> int:
    return FIRST + k


def _scene(style: str, *key: int, world: World = WORLDS[1]) -> Scene:
    return replace(world.scene(rng_for(31, *key)), style=style)


def portraits(
    style: str, count: int, side: int, take: int = 0, world: World = WORLDS[1]
) -> list[tuple[Drawing, Scene]]:
    """One picture each of `count` people; another `take` shows the same people in other scenes."""
    scenes = [_scene(style, list(STYLES).index(style), take, k, world=world) for k in range(count)]
    return [(draw([(person(_who(k)), where)], side=side), where) for k, where in enumerate(scenes)]


def faceless(count: int, side: int) -> list[Drawing]:
    """Cats, cups and empty places, in every style."""
    pictures = []
    for k in range(count):
        rng = rng_for(32, k)
        what = (thing(rng, "cat"), thing(rng, "cup"), None)[k % 3]
        pictures.append(draw([], (what, replace(scene(rng), style=list(STYLES)[k // 3 % len(STYLES)])), side))
    return pictures


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), range [0, 1]."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    both = float(np.clip(high - low, 0, None).prod())
    return both / (float((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod()) - both)


def match_faces(pack: faces.FacePack, drawing: Drawing, scenes: list[Scene]) -> tuple[int, int, list[float]]:
    """Number of faces found, number invented, and each found face's mean landmark error relative to its height.

    A face counts as found if a box has an IoU of at least 0.5 and a landmark error below a tenth of the face's height.
    """
    side = drawing.image.shape[0]
    left = pack.find(Image.fromarray(drawing.image))
    errors = []
    for box, points in zip(boxes(scenes) * side, drawing.landmarks * side, strict=True):
        height = box[3] - box[1]
        off = [float(np.linalg.norm(f.landmarks - points, axis=1).mean() / height) for f in left]
        good = [k for k, f in enumerate(left) if overlap(np.array(f.box), box) >= 0.5 and off[k] < 0.1]
        if good:
            errors.append(off[good[0]])
            left = [f for k, f in enumerate(left) if k != good[0]]
    return len(errors), len(left), errors


def detection(pack: faces.FacePack, count: int, world: World) -> list[Row]:
    sides = (world.side, LARGE)
    lines, all_found, all_faces, errors = [], 0, 0, []
    for style in STYLES:
        hits = [match_faces(pack, d, [w]) for side in sides for d, w in portraits(style, count, side, world=world)]
        lines.append((f"faces found, {style}", f"{sum(h for h, _, _ in hits) / len(hits):.3f} of {len(hits)}"))
        all_found, all_faces = all_found + sum(h for h, _, _ in hits), all_faces + len(hits)
        errors += [e for _, _, es in hits for e in es]
    pairs = [list(world.pair(rng_for(33, k))) for k in range(count)]
    hits = []
    for k, scenes in enumerate(pairs):
        figures = [(person(_who(2 * k + i)), where) for i, where in enumerate(scenes)]
        hits += [match_faces(pack, draw(figures, side=side), scenes) for side in sides]
    lines.append(("faces found, pairs", f"{sum(h for h, _, _ in hits) / (2 * len(hits)):.3f} of {2 * len(hits)}"))
    all_found, all_faces = all_found + sum(h for h, _, _ in hits), all_faces + 2 * len(hits)
    empty = [pack.find(Image.fromarray(d.image)) for side in sides for d in faceless(3 * count, side)]
    return [
        ("faces found, all", f"{all_found / all_faces:.3f} of {all_faces}"),
        ("faces invented per face-free drawing", f"{sum(map(len, empty)) / len(empty):.3f} of {len(empty)}"),
        ("landmark error, share of a face's height", f"{np.mean(errors):.3f}"),
        *lines,
    ]


def embeddings(pack: faces.FacePack, pictures: list[Drawing]) -> list[np.ndarray | None]:
    """The embedding (E,) of each picture's largest face, cropped by the detector; None if no face was found."""
    rows = []
    for each in pictures:
        picture = Image.fromarray(each.image)
        seen = pack.find(picture)[:1]
        rows.append(pack.embed(picture, seen)[0] if seen else None)
    return rows


def verification(pack: faces.FacePack, count: int, world: World) -> list[Row]:
    """Area under the ROC curve for a photograph of one person against pictures of the same or another, by style."""
    first = embeddings(pack, [d for d, _ in portraits("photo", count, world.side, 1, world)])
    lines = []
    for style in STYLES:
        second = embeddings(pack, [d for d, _ in portraits(style, count, world.side, 2, world)])
        both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
        cosines = np.stack([a for a, _ in both]) @ np.stack([b for _, b in both]).T
        same, other = np.diag(cosines), cosines[~np.eye(len(both), dtype=bool)]
        auc = float((same[:, None] > other[None]).mean())
        lines.append((style, f"{auc:.3f} (same {same.mean():.2f}, other {other.mean():.2f})"))
    return lines


def resolutions(pack: faces.FacePack, count: int, world: World) -> float:
    """Mean cosine similarity of the same picture's face at the world's own side and at 256 pixels."""
    small, large = (
        embeddings(pack, [d for d, _ in portraits("photo", count, side, world=world)]) for side in (world.side, LARGE)
    )
    return float(np.mean([a @ b for a, b in zip(small, large, strict=True) if a is not None and b is not None]))


def intersection(mask: torch.Tensor, exact: np.ndarray) -> float:
    """IoU of a soft mask, thresholded at 0.5, with an exact mask of the same size; 1 if both are empty."""
    a, b = mask.numpy() >= 0.5, exact >= 128
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def segmentation(opened: clipseg.ClipSeg, count: int, world: World) -> list[Row]:
    def measure(word: str, pictures: list[Drawing]) -> str:
        values = [intersection(opened.mask(Image.fromarray(d.image), word), d.mask) for d in pictures]
        return f"{np.mean(values):.3f} (least {np.min(values):.2f})"

    lines = [
        (f"face, {style}", measure("face", [d for d, _ in portraits(style, count, world.side, world=world)]))
        for style in STYLES
    ]
    lines.insert(
        0,
        ("face, photo at 256 pixels", measure("face", [d for d, _ in portraits("photo", count, LARGE, world=world)])),
    )
    things = faceless(3 * count, world.side)
    lines += [("cat", measure("cat", things[0::3])), ("cup", measure("cup", things[1::3]))]
    share = [float((opened.mask(Image.fromarray(d.image), "face") >= 0.5).float().mean()) for d in things]
    return [*lines, ("share of a face-free drawing taken for a face", f"{np.mean(share):.3f}")]


def reconstruction(folder: Path, count: int, version: int) -> list[Row]:
    """The autoencoder's reconstruction quality on drawings."""
    vae = AutoencoderKL.from_pretrained(folder, use_safetensors=True, local_files_only=True, dtype=torch.float32)
    found = train_vae.psnr(vae.eval(), train_vae.held_out_pictures(count, version))
    return [(f"autoencoder, PSNR of {count} drawings", f"{found:.2f} dB")]


def retrieval(opened: clip.Clip, groups: int, world: World) -> float:
    """Share of held-out pictures whose own caption is the closest of twenty; chance is 0.05."""
    hits = []
    for group in range(groups):
        rngs = [rng_for(34, group, k) for k in range(AMONG)]
        scenes, people = [world.scene(rng) for rng in rngs], [person(_who(group * AMONG + k)) for k in range(AMONG)]
        images = np.stack([draw([each], side=world.side).image for each in zip(people, scenes, strict=True)])
        texts = [world.caption(p, s, r, traits=True) for p, s, r in zip(people, scenes, rngs, strict=True)]
        with torch.no_grad():
            cosines = train_clip.similarities(opened.model, opened.tokenizer, train_clip.pixels(images), texts)
        hits.append((cosines.argmax(dim=1) == torch.arange(AMONG)).float().mean())
    return float(torch.stack(hits).mean())


def agreement(folder: Path, pack: faces.FacePack) -> float:
    """Largest difference between the recogniser's outputs in torch and in onnxruntime, on 20 crops."""
    crops = np.stack([draw([(person(_who(k)), _scene("photo", 9, k))], side=112).image for k in range(20)])
    want = np.concatenate([pack.recogniser.get_feat(crop[:, :, ::-1]) for crop in crops])
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    return float(np.abs(recogniser.load(folder)(pixels).numpy() - want).max())


# The measured parts and the folder of each.
PARTS = {
    "detection": "faces_a",
    "a": "faces_a",
    "b": "faces_b",
    "clipseg": "clipseg",
    "clip": "clip",
    "autoencoder": "base/vae",
}


def report(folder: Path, count: int, parts: set[str], version: int = 1) -> str:
    """The table of these PARTS as Markdown. folder: holds weights trained on that version of the world."""
    world = WORLDS[version]
    lines = ["| | |", "|---|---|"]

    def report_line(rows: list[Row]) -> None:
        lines.extend(f"| {name} | {value} |" for name, value in rows)

    measures: dict[str, Callable[[Path], list[Row]]] = {
        "detection": lambda pack: detection(faces.load(pack), count, world),
        "a": lambda pack: _recogniser_rows("A", pack, count, world),
        "b": lambda pack: _recogniser_rows("B", pack, count, world),
        "clipseg": lambda model: [
            (f"CLIPSeg IoU, {name}" if "share" not in name else name, value)
            for name, value in segmentation(clipseg.load(model), count, world)
        ],
        "clip": lambda model: [
            (f"CLIP finds the caption among {AMONG}", f"{retrieval(clip.load(model), 10, world):.3f}")
        ],
        "autoencoder": lambda vae: reconstruction(vae, count, version),
    }
    for name, measure in measures.items():
        if name in parts:
            report_line(measure(folder / PARTS[name]))
    return "\n".join(lines)


def _recogniser_rows(name: str, folder: Path, count: int, world: World) -> list[Row]:
    pack = faces.load(folder)
    return [
        *(
            (f"recogniser {name}, AUC of photo with {style}", value)
            for style, value in verification(pack, 3 * count, world)
        ),
        (f"recogniser {name}, cosine of {world.side} with {LARGE} pixels", f"{resolutions(pack, count, world):.3f}"),
        (f"recogniser {name}, torch against onnxruntime", f"{agreement(folder, pack):.1e}"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=WEIGHTS)
    parser.add_argument("--pictures", type=int, default=60, help="of each style and size")
    parser.add_argument("--world", type=int, choices=WORLDS, default=1, help="the version that is looked at")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    measuring.require(parser, arguments.folder, [PARTS[part] for part in arguments.only])
    print(report(arguments.folder, arguments.pictures, set(arguments.only), arguments.world))
