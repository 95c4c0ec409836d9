"""The miniature: a complete small model trained on drawn faces, in the real libraries' own formats.

`pmagic.world` is what it learns from; `corpus` draws a training set of it; the `train_*` files make its weights;
`pmagic.experiments` measures them. No other room imports this folder: the program only reads the weights kept in it,
as it would read any other base's.
"""
