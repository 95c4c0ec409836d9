"""pmagic learns a person, pet, object or style from one photo and draws them in any scene.

Read in this order: `persona` (the value everything passes on), `engine` (the paper, one idea per
file), `methods` (how a persona is learned and worn), `losses` (one equation per file), `bases`
(how a diffusion model is found and loaded), `vision` (frozen observers), `library` (what is kept
on disk), `cli` (what is said on the terminal), `world` (drawn people), `mini` (the
miniature: a complete small model trained on them).
"""

__version__ = "0.1.0"
