"""The miniature: a complete small model trained on drawn faces, in the real libraries' own formats.

`pmagic.world` is what it learns from; `corpus` draws a training set of it; the `train_*` files make its weights;
`report` measures them.
Nothing of the program imports this folder: it only reads the weights kept in it, as it would read any other base's.
"""
