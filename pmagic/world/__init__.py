"""The drawn world: people, scenes and their captions, drawn with a 2-D graphics library and without any model.

Read in this order: `people`; `scenes` (version 1); `layouts`, `garments`, `snapshots` and `captions` (version 2);
`versions` (both by number); `samples` (a corpus, picture by picture); `drawing` (which calls the painters); then the
painters: `brush`, `faces`, `outfits`, `bodies`, `things`, `places`, `styles`.
"""
