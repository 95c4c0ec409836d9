"""A server that keeps the base open: the OpenAI images API on loopback, and a socket that `pmagic render` uses.

`server` starts everything. `images_api` answers HTTP clients, `local_api` the commands of this user, `jobs` has the
queue and the workers, `client` is the other end of the socket. Only `client` works without the extra `serve`.
"""
