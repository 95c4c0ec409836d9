"""The miniature: a complete small model trained on drawn faces, in the real libraries' own formats.

`people`, `scenes`, `brush`, `places`, `outfits`, `faces`, `things`, `styles` and `drawing` are the world it learns
from; `corpus` draws a training set; the `train_*` files make its weights; `report` measures them.
Nothing of the program imports this folder: it only reads the weights kept in it, as it would read any other base's.
"""
