"""A thin layer over skia that paints on a picture and, optionally, on its masks at the same time."""

import numpy as np
import skia

from pmagic.world.people import Colour

Point = tuple[float, float]
FACES, THINGS = 0, 1  # channels of the mask
_LAYERS = (skia.ColorRED, skia.ColorGREEN)


def _colour(c: Colour, alpha: float = 255) -> int:
    r, g, b = (int(min(max(v, 0), 255)) for v in c)
    return skia.Color(r, g, b, int(alpha))


class Brush:
    """Paints on the picture and its masks, in the current units. `mask`: True adds the shape to the mask, False removes
    it from the mask, None leaves the mask as it is. `layer` chooses the mask: FACES or THINGS.
    """

    def __init__(self, pixels: int) -> None:
        self.layer = FACES
        self._surface, self._mask_surface = skia.Surface(pixels, pixels), skia.Surface(pixels, pixels)
        self.canvas, self._mask = self._surface.getCanvas(), self._mask_surface.getCanvas()
        self._mask.clear(skia.ColorBLACK)
        for c in (self.canvas, self._mask):
            c.scale(pixels, pixels)
        self._pixels = pixels

    def push(self, x: float = 0, y: float = 0, turn: float = 0, scale: float = 1) -> None:
        for c in (self.canvas, self._mask):
            c.save()
            c.translate(x, y)
            c.rotate(turn)
            c.scale(scale, scale)

    def pop(self) -> None:
        for c in (self.canvas, self._mask):
            c.restore()

    def clip(self, path: skia.Path) -> None:
        """Confine the picture (not the mask) to `path` until the next `pop`."""
        self.canvas.clipPath(path, skia.ClipOp.kIntersect, True)

    def pixel(self, x: float, y: float) -> Point:
        """The position of (x, y), given in the current units, as shares of the side."""
        p = self.canvas.getTotalMatrix().mapXY(x, y)
        return p.x() / self._pixels, p.y() / self._pixels

    def _paints(self, c: Colour, alpha: float, stroke: float, shader: skia.Shader | None, mask: bool | None):
        def paint(colour: int) -> skia.Paint:
            p = skia.Paint(AntiAlias=True, Color=colour)
            if stroke:
                p.setStyle(skia.Paint.kStroke_Style)
                p.setStrokeWidth(stroke)
                p.setStrokeCap(skia.Paint.kRound_Cap)
                p.setStrokeJoin(skia.Paint.kRound_Join)
            return p

        main = paint(_colour(c, alpha))
        if shader is not None:
            main.setShader(shader)
        yield self.canvas, main
        if mask is not None:
            yield self._mask, paint(_LAYERS[self.layer] if mask else skia.ColorBLACK)

    def fill(self, c: Colour, shader: skia.Shader | None = None) -> None:
        for canvas, p in self._paints(c, 255, 0, shader, None):
            canvas.drawPaint(p)

    def vignette(self, x: float, y: float, inner: float, outer: float, strength: float) -> None:
        """Darken the picture by the share `strength` beyond the distance `outer` from (x, y), and less inside it."""
        edge = skia.Color(0, 0, 0, int(255 * strength))
        clear = skia.Color(0, 0, 0, 0)
        shader = skia.GradientShader.MakeRadial(skia.Point(x, y), outer, [clear, clear, edge], [0, inner / outer, 1])
        self.canvas.drawPaint(skia.Paint(Shader=shader))

    def circle(self, x, y, r, c, *, alpha: float = 255, stroke=0.0, shader=None, mask=None) -> None:
        for canvas, p in self._paints(c, alpha, stroke, shader, mask):
            canvas.drawCircle(x, y, r, p)

    def oval(self, x, y, w, h, c, *, alpha: float = 255, stroke=0.0, shader=None, mask=None) -> None:
        for canvas, p in self._paints(c, alpha, stroke, shader, mask):
            canvas.drawOval(skia.Rect.MakeXYWH(x, y, w, h), p)

    def rect(self, x, y, w, h, c, *, round=0.0, alpha: float = 255, stroke=0.0, shader=None, mask=None) -> None:
        for canvas, p in self._paints(c, alpha, stroke, shader, mask):
            canvas.drawRoundRect(skia.Rect.MakeXYWH(x, y, w, h), round, round, p)

    def path(self, path, c, *, alpha: float = 255, stroke=0.0, shader=None, mask=None) -> None:
        for canvas, p in self._paints(c, alpha, stroke, shader, mask):
            canvas.drawPath(path, p)

    def polygon(self, points: list[Point], c, *, alpha: float = 255, mask=None) -> None:
        self.path(outline(points), c, alpha=alpha, mask=mask)

    def line(self, a: Point, b: Point, c, width: float, *, alpha: float = 255, mask=None) -> None:
        for canvas, p in self._paints(c, alpha, width, None, mask):
            canvas.drawLine(*a, *b, p)

    def arc(self, x, y, w, h, start, sweep, c, width: float, *, alpha: float = 255) -> None:
        for canvas, p in self._paints(c, alpha, width, None, None):
            canvas.drawArc(skia.Rect.MakeXYWH(x, y, w, h), start, sweep, False, p)

    def image(self) -> np.ndarray:
        """(pixels, pixels, 3) uint8 RGB."""
        return self._surface.toarray(colorType=skia.kRGBA_8888_ColorType)[..., :3].copy()

    def mask(self, layer: int = FACES) -> np.ndarray:
        """(pixels, pixels) uint8, 255 where this layer is visible."""
        return self._mask_surface.toarray(colorType=skia.kRGBA_8888_ColorType)[..., layer].copy()


def outline(points: list[Point]) -> skia.Path:
    path = skia.Path()
    path.moveTo(*points[0])
    for p in points[1:]:
        path.lineTo(*p)
    path.close()
    return path


def curve(start: Point, *segments: tuple[float, ...], closed: bool = True) -> skia.Path:
    """A path of lines (2 numbers), quadratic (4) and cubic (6) curves."""
    path = skia.Path()
    path.moveTo(*start)
    for s in segments:
        {2: path.lineTo, 4: path.quadTo, 6: path.cubicTo}[len(s)](*s)
    if closed:
        path.close()
    return path


def downward(top: Colour, bottom: Colour, y0: float = 0.0, y1: float = 1.0) -> skia.Shader:
    """A vertical gradient."""
    return skia.GradientShader.MakeLinear([skia.Point(0, y0), skia.Point(0, y1)], [_colour(top), _colour(bottom)])


def outward(x: float, y: float, radius: float, colours: list[Colour], stops: list[float]) -> skia.Shader:
    """A radial gradient."""
    return skia.GradientShader.MakeRadial(skia.Point(x, y), radius, [_colour(c) for c in colours], stops)
