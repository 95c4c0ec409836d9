"""A training set of drawn pictures, kept as memory-mapped arrays outside the repository.

    python -m pmagic.mini.corpus WORK --pictures 60000
    python -m pmagic.mini.corpus WORK --pictures 16000 --world 2

Any picture can be drawn again from its number alone. No person with a seed of `HELD_OUT` or above appears in it.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pmagic.world.captions import short_caption
from pmagic.world.samples import sample
from pmagic.world.scenes import MARK, Scene
from pmagic.world.versions import WORLDS

CHUNK = 500
ARRAYS: dict[str, tuple[int, ...]] = {"images": (3,), "masks": (), "things": ()}  # channels of a pixel


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """images (N, side, side, 3) uint8; masks, things (N, side, side) uint8; all other fields have N entries."""

    version: int  # of the world
    images: np.ndarray
    masks: np.ndarray
    things: np.ndarray  # masks of things, also of things beside people
    captions: list[str]
    layout_captions: list[str]  # captions of the same people that always state the layout
    marked: list[list[int]]
    people: np.ndarray
    scenes: list[dict]
    landmarks: list[list]

    @property
    def words(self) -> list[str]:
        """The captions as plain words, without name marks."""
        return [text.replace(MARK, "face") for text in self.captions]

    @property
    def layout_words(self) -> list[str]:
        """The captions that always state the layout, as plain words."""
        return [text.replace(MARK, "face") for text in self.layout_captions]

    @property
    def short_captions(self) -> list[str]:
        """Captions of one person with little but the side; for other pictures, the captions that state the layout."""
        rows = zip(self.people, self.scenes, self.layout_captions, strict=True)
        return [short_caption(Scene(**where)) if who >= 0 else text for who, where, text in rows]

    @property
    def side(self) -> int:
        """The side of a picture, in pixels."""
        return self.images.shape[1]


def _draw_chunk(folder: Path, start: int, stop: int, version: int) -> list[dict]:
    images, masks, things = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ARRAYS)
    rows = []
    for k in range(start, stop):
        s = sample(k, version)
        images[k], masks[k], things[k] = s.drawing.image, s.drawing.mask, s.drawing.thing_mask
        rows.append(
            {
                "caption": s.caption,
                "layout_caption": s.layout_caption,
                "marked": s.marked,
                "person": s.person,
                "scene": asdict(s.scene),
                "landmarks": s.drawing.landmarks.round(4).tolist(),
            }
        )
    return rows


def make(folder: Path, pictures: int, version: int = 1, workers: int | None = None) -> None:
    """Draw `pictures` pictures into `folder`. Pictures of the same version are kept, and only missing ones are drawn.

    workers: number of processes; None means one per core.
    """
    known = json.loads((folder / "rows.json").read_text()) if (folder / "rows.json").exists() else []
    if known and _version(folder) != version:
        raise SystemExit(f"{folder} holds pictures of world {_version(folder)}, not {version}: give another folder")
    if len(known) >= pictures:
        return
    folder.mkdir(parents=True, exist_ok=True)
    side = WORLDS[version].side
    for name, shape in ARRAYS.items():
        old = np.load(folder / f"{name}.npy", mmap_mode="r") if known else None
        fresh = np.lib.format.open_memmap(
            folder / f"{name}.new", mode="w+", dtype=np.uint8, shape=(pictures, side, side, *shape)
        )
        if old is not None:
            fresh[: len(old)] = old
        fresh.flush()
        (folder / f"{name}.new").replace(folder / f"{name}.npy")
    starts = range(len(known), pictures, CHUNK)
    stops = [min(s + CHUNK, pictures) for s in starts]
    with ProcessPoolExecutor(workers) as pool:
        chunks = pool.map(_draw_chunk, [folder] * len(starts), starts, stops, [version] * len(starts))
        rows = known + [row for chunk in chunks for row in chunk]
    (folder / "world.json").write_text(json.dumps({"version": version}))
    write_rows(folder, rows)


def write_rows(folder: Path, rows: list[dict]) -> None:
    """Write the rows atomically: a training may read the file while more pictures are drawn."""
    (folder / "rows.new").write_text(json.dumps(rows))
    (folder / "rows.new").replace(folder / "rows.json")


def _version(folder: Path) -> int:
    return json.loads((folder / "world.json").read_text())["version"]


def load(folder: Path) -> Corpus:
    rows = json.loads((folder / "rows.json").read_text())
    images, masks, things = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)
    return Corpus(
        version=_version(folder),
        images=images,
        masks=masks,
        things=things,
        captions=[r["caption"] for r in rows],
        layout_captions=[r["layout_caption"] for r in rows],
        marked=[r["marked"] for r in rows],
        people=np.array([r["person"] for r in rows]),
        scenes=[r["scene"] for r in rows],
        landmarks=[r["landmarks"] for r in rows],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--world", type=int, choices=WORLDS, default=1, help="the world's version")
    parser.add_argument("--workers", type=int, help="processes that draw")
    arguments = parser.parse_args()
    make(arguments.work / "corpus", arguments.pictures, arguments.world, arguments.workers)
