"""The drawn world: people, scenes and captions, drawn with a 2-D graphics library. It needs no model.

Read in this order: `people`, `scenes` (the first version), `layouts`, `garments`, `snapshots` and `captions` (the
second), `versions` (both by their number), `samples` (a corpus, picture by picture), `drawing` (which puts the painters
together), then the painters: `brush`, `faces`, `outfits`, `bodies`, `things`, `places`, `styles`.
"""
