"""`pmagic compose`: several personas in one picture, or one persona in a place of your own picture."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pmagic import atomic_io, settings
from pmagic.cli import drawing
from pmagic.cli.console import Console
from pmagic.cli.options import AsJson, Quiet, number
from pmagic.engine.prompts import check_text
from pmagic.errors import PhotoRefused, UsageError
from pmagic.library.store import Library
from pmagic.tasks.adapter_input import read
from pmagic.tasks.drawing import CountFaces, RenderOptions, Scene, find_base, prepare
from pmagic.tasks.prompt_text import compose_names

if TYPE_CHECKING:
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.engine.inpainting import InpaintRegion
    from pmagic.engine.regions import Box

# The part of the picture that each word of a layout means: PLACES, or THIRDS if the layout has `middle`.
PLACES: "Mapping[str, Box]" = {
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0),
}
THIRDS: "Mapping[str, Box]" = {
    "left": (0.0, 0.0, 1 / 3, 1.0),
    "middle": (1 / 3, 0.0, 2 / 3, 1.0),
    "right": (2 / 3, 0.0, 1.0, 1.0),
}


def compose(
    prompt: Annotated[str, typer.Argument(help='"a photo of {alice} in the style of {ukiyo}"')],
    layout: Annotated[
        str | None,
        typer.Option("--layout", help="Where each person stands, in the order of the names: left,right."),
    ] = None,
    background: Annotated[Path | None, typer.Option("--background", help="A picture to draw into.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Where to draw: a picture that is white there.")] = None,
    mask_text: Annotated[
        str | None, typer.Option("--mask-text", help='Where to draw, in words: "the empty chair".')
    ] = None,
    box: Annotated[str | None, typer.Option("--box", help="Where to draw: x,y,width,height in pixels.")] = None,
    fit_mask: Annotated[bool, typer.Option("--fit-mask", help="Stretch the mask to the background's size.")] = False,
    soft_edge: Annotated[
        int, typer.Option("--soft-edge", help="Pixels over which the drawing fades into the background.")
    ] = 0,
    preview: Annotated[bool, typer.Option("--preview", help="Only show the mask on the background.")] = False,
    count: drawing.Count = 1,
    seed: drawing.Seed = 0,
    steps: drawing.Steps = None,
    guidance: drawing.Guidance = None,
    scheduler: drawing.Scheduler = None,
    negative: drawing.Negative = None,
    size: drawing.Size = None,
    strength: drawing.Strength = 1.0,
    adapter: drawing.With = None,
    look: drawing.Look = None,
    scale: drawing.Scale = None,
    out: drawing.Out = Path(),
    kind: drawing.Format = None,
    grid: drawing.Grid = False,
    show: drawing.Show = False,
    enlarge: drawing.Enlarge = 1,
    base: drawing.BaseMoved = None,
    device: drawing.Device = None,
    dtype: drawing.Dtype = "auto",
    memory: drawing.Memory = "auto",
    exact: drawing.Exact = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draw personas together, or in a place of your own picture.

    Write names in braces, as in "a photo of {alice} in the style of {ukiyo}". The other options are as in render.

    \b
    pmagic compose "a photo of {alice} and {bob} in snow" --layout left,right
    pmagic compose "{alice} on a chair" --background room.jpg --mask-text "the empty chair"
    pmagic compose "{alice} and {bob}" --layout left,right --with ip-adapter --look alice=a.jpg --look bob=b.jpg
    """
    from pmagic.engine import prompts

    console = Console(quiet=quiet, as_json=as_json)
    output = drawing.Output(out=out, kind=kind, grid=grid, show=show, enlarge=enlarge)
    options = RenderOptions(
        count=count,
        seed=seed,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        negative=negative,
        size=drawing.parse_size(size),
        strength=strength,
        device=device,
        dtype=dtype,
        memory=memory,
        exact=exact,
    )
    check_text(mask_text or "", "--mask-text")
    prompt_names = compose_names(prompt)
    regions = _regions(layout, prompt_names) if layout is not None else {}
    marks = (mask, mask_text, box)
    _check_place(background, marks, fit_mask, preview or soft_edge != 0)
    given = read(adapter, look or [], scale, prompt_names, list(regions))
    library = Library(settings.library_dir())
    personas = {name: library.load(name) for name in prompt_names}
    bare = prompts.bare_names(prompt, library.names())
    if bare:
        console.warn(
            f"without braces in the prompt, a name is an ordinary word: {', '.join(bare)}; for the persona write "
            f"{prompts.in_braces(bare[0])}"
        )
    spec = find_base(list(personas.values()), base)
    style_settings = options.settings([persona for _, persona in personas.values()], spec)
    if len({persona.settings["recipe"] for _, persona in personas.values()}) > 1:
        console.say(
            f"the personas were learned with different recipes: drawing with {style_settings.scheduler} "
            f"and the negative prompt {style_settings.negative!r}"
        )
    edit, metadata = None, {}
    if background is not None:
        edit, metadata = _edit(console, spec, background, marks, fit_mask, soft_edge, style_settings.size or (1, 1))
    title = prompt
    for name, (address, _) in personas.items():
        title = title.replace(prompts.in_braces(name), prompts.in_braces(str(address)))
    file_name = drawing.slug(prompt)
    if edit is not None and preview:
        _write_preview(console, output, f"{file_name}-mask", edit)
        return
    if layout is not None:
        metadata["layout"] = layout
    people = {name: box for name, box in regions.items() if personas[name][1].word in prompts.FACE_WORDS}
    scene = Scene(
        prompt=prompt,
        title=title,
        regions=regions,
        edit=edit,
        metadata={"verb": "compose", **metadata},
        count_faces=_face_counter(console, spec, people, edit) if people else None,
    )
    prepare_drawing = partial(
        prepare, console, personas, [scene], options, base=spec, settings=style_settings, adapter=given
    )
    drawing.draw(console, output, prepare_drawing, [file_name])


def parse_layout(text: str) -> "list[Box]":
    """The boxes, in shares of the picture, that `left,right` or `x,y,width,height;...` (in percent) stand for."""
    words = [part.strip().lower() for part in text.split(",")]
    known = THIRDS if "middle" in words else PLACES
    if all(word in known for word in words) and len(set(words)) == len(words):
        return [known[word] for word in words]
    if all(len(each.split(",")) == 4 for each in text.split(";")):
        boxes = [_numbers(each, "--layout", text) for each in text.split(";")]
        if all(x + width <= 100 and y + height <= 100 for x, y, width, height in boxes):
            return [(x / 100, y / 100, (x + width) / 100, (y + height) / 100) for x, y, width, height in boxes]
    raise UsageError(
        f"--layout cannot be {text!r}",
        "write left,right or left,middle,right or top,bottom, or boxes as x,y,width,height;x,y,width,height in percent "
        "of the picture (with a --background: of the red frame that --preview shows)",
    )


def parse_box(text: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in pixels, from `x,y,width,height` inside a picture of `size`."""
    x, y, width, height = _numbers(text, "--box", text)
    if x + width > size[0] or y + height > size[1]:
        raise UsageError(f"--box {text} is not inside the background of {size[0]} x {size[1]}", "give a smaller box")
    return x, y, x + width, y + height


def _numbers(text: str, option: str, whole: str) -> tuple[int, int, int, int]:
    parts = [number(part.strip()) for part in text.split(",")]
    numbers = [each for each in parts if each is not None]
    if len(parts) != 4 or len(numbers) != 4 or 0 in numbers[2:]:
        raise UsageError(f"{option} cannot be {whole[:80]!r}", "write it as x,y,width,height, for example 10,20,30,40")
    x, y, width, height = numbers
    return x, y, width, height


def _face_counter(
    console: Console, spec: "ModelSpec", people: "Mapping[str, Box]", edit: "InpaintRegion | None"
) -> CountFaces | None:
    """A function that counts the faces in each person's place. Without the base's face pack: None, and a warning."""
    from pmagic.engine import face_selection, layout_check

    if not isinstance(spec.faces, Path):
        console.warn(
            f"the faces in each place will not be counted: the face pack {spec.faces} is not on this machine; "
            f"fetch it with `pmagic models pull {spec.faces}`"
        )
        return None
    pack = face_selection.open_pack(spec)
    return lambda picture: layout_check.count_faces(pack, picture, people, edit)


def _regions(layout: str, prompt_names: Sequence[str]) -> "dict[str, Box]":
    """A box for each of the first names in the prompt. The other names, such as a style, apply everywhere."""
    boxes = parse_layout(layout)
    if len(boxes) > len(prompt_names):
        raise UsageError(
            f"--layout {layout!r} has {len(boxes)} places, but the prompt names {len(prompt_names)}",
            "remove some places",
        )
    return dict(zip(prompt_names, boxes, strict=False))


def _check_place(background: Path | None, marks: Sequence[object], fit_mask: bool, extras: bool) -> None:
    """marks: --mask, --mask-text, --box. extras: whether --soft-edge or --preview is given. Raises UsageError."""
    places = [each for each in marks if each is not None]
    if background is None and (places or extras or fit_mask):
        raise UsageError("a mask, a box, a soft edge and a preview need a --background", "add --background PICTURE")
    if background is not None and len(places) != 1:
        raise UsageError(
            f"a --background needs one of --mask, --mask-text and --box, not {len(places)}", "give exactly one of them"
        )
    if fit_mask and marks[0] is None:
        raise UsageError("--fit-mask needs a --mask", "leave it out")


def _edit(
    console: Console,
    spec: "ModelSpec",
    background: Path,
    marks: tuple[Path | None, str | None, str | None],
    fit_mask: bool,
    soft_edge: int,
    size: tuple[int, int],
) -> "tuple[InpaintRegion, dict[str, object]]":
    """The region to draw in, and the metadata of its pictures: hashes of the files, but no paths."""
    from PIL import Image

    from pmagic import pictures
    from pmagic.engine import inpainting

    photo, (mask, text, box) = pictures.read_photo(background), marks
    if photo.see_through:
        console.warn(f"the background {background} has transparent parts: the picture is white there")
    metadata: dict[str, object] = {"background": photo.sha256, "soft_edge": soft_edge}
    if mask is not None:
        mask_image = pictures.read_mask(mask)
        metadata.update(mask=hashlib.sha256(mask.read_bytes()).hexdigest(), fit_mask=fit_mask)
        if mask_image.size != photo.image.size:
            if not fit_mask:
                raise PhotoRefused(
                    f"the mask {mask} is {mask_image.width} x {mask_image.height}, the background "
                    f"{photo.image.width} x {photo.image.height}",
                    "give a mask of the background's size, or stretch it with --fit-mask",
                )
            mask_image = mask_image.resize(photo.image.size, Image.Resampling.BILINEAR)
    elif text is not None:
        mask_image, metadata["mask_text"] = inpainting.text_mask(spec, photo.image, text), text
    else:
        assert box is not None  # _check_place has checked it
        mask_image, metadata["box"] = Image.new("L", photo.image.size, 0), box
        mask_image.paste(255, parse_box(box, photo.image.size))
    return inpainting.inpaint_region(photo.image, mask_image, size, soft_edge), metadata


def _write_preview(console: Console, output: drawing.Output, name: str, edit: "InpaintRegion") -> None:
    from pmagic import pictures

    folder, file_name, ending = drawing.parse_out(output.out, output.kind)
    buffer = io.BytesIO()
    edit.preview().save(buffer, pictures.ENDINGS[ending.lower()])
    with atomic_io.storing(f"the preview in {folder}"):
        atomic_io.make_folder(folder)
        path = atomic_io.publish_file(buffer.getvalue(), folder / (file_name or f"{name}{ending}"))
    left, top, right, bottom = edit.frame
    console.say(f"the red frame, {right - left} x {bottom - top} pixels, will be drawn again in the base's size")
    console.result([str(path)], {"preview": str(path), "frame": edit.frame})
