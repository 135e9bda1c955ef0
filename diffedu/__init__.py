"""diffedu: diffusion models, exact first.

One file per concept: `mixture` (the density), `path` (how it is noised), `sde` (the
processes and their reversal), `denoiser` (what is known of x_0), `samplers`, `metrics`,
`check`, `plots` and `widgets`. Import from those modules.
"""
