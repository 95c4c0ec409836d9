"""The drawn world: people, scenes and captions, drawn with a 2-D graphics library. It needs no model.

Read in this order: `people`, `scenes`, `drawing` (which puts the painters together), then the painters: `brush`,
`faces`, `outfits`, `things`, `places`, `styles`.
"""
