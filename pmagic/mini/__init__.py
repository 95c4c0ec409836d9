"""The miniature: a complete small model trained on drawn faces, in the real libraries' own formats.

It is trained on pictures of `pmagic.world`. `corpus` draws the training set, the `train_*` files train the weights, and
`pmagic.experiments` measures them. No other package imports this folder: the program only reads the weights in it, as
it reads those of any other base.
"""
