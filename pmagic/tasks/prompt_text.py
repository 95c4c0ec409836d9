"""Prompts as people write them, and the names of personas in them."""

import re

from pmagic.engine.prompts import NAME, check_text
from pmagic.errors import UsageError

_OTHER_NAME = re.compile(r"<([^<>\s:]+)>|\{([^{}]+)\}")  # no persona's name holds a colon, as <lora:x:1> does


def render_prompt(prompt: str, address: str) -> str:
    """`as a cowboy` -> `a photo of {} as a cowboy`; a prompt with the persona's name stays as it is.

    address: "alice@1". `{}`, `<alice>` and `{alice}` (or `<alice@1>`) all stand for the name.
    Raises UsageError for another name in brackets, and for text that no prompt can have.
    """
    check_text(prompt)
    name = address.partition("@")[0]
    for own in (address, name):
        prompt = prompt.replace(f"<{own}>", NAME).replace(f"{{{own}}}", NAME)
    other = _OTHER_NAME.search(prompt)
    if other:
        raise UsageError(
            f"the prompt names {other[0]}, but {name} is drawn",
            f"write {NAME} or <{name}> instead; `pmagic compose` draws several personas together",
        )
    return prompt if NAME in prompt else f"a photo of {NAME} {prompt}".strip()


def plain_prompt(prompt: str) -> str:
    """A prompt without a persona, as it is. Raises UsageError for a name in brackets."""
    check_text(prompt)
    other = NAME if NAME in prompt else getattr(_OTHER_NAME.search(prompt), "group", str)()
    if other:
        raise UsageError(
            f"the prompt has {other}, and no persona is named",
            'name one before the prompt, as in `pmagic render alice "as a cowboy"`, or leave the brackets out',
        )
    if not prompt.strip():
        raise UsageError("the prompt is empty", 'say what to draw, as in "a photo of a woman"')
    return prompt


def title_of(prompt: str, name: str) -> str:
    """The prompt with the persona's name instead of `{}`, as in the metadata of a picture."""
    return prompt.replace(NAME, f"<{name}>")


def compose_names(prompt: str) -> list[str]:
    """The names in the prompt's braces. Raises UsageError for none, for `{}` and for a brace without its partner."""
    from pmagic.engine import prompts

    check_text(prompt)
    stray = prompts.stray_brace(prompt)
    if stray:
        raise UsageError(
            f"the prompt has a brace without its partner: {stray!r}",
            "write each name between two braces, as in {alice}, and no brace elsewhere",
        )
    names = prompts.names(prompt)
    if "" in names:
        raise UsageError(
            f"the prompt {prompt!r} has {{}}, which names nobody", "write a name between the braces, as in {alice}"
        )
    if not names:
        raise UsageError(f"the prompt {prompt!r} names no persona", 'write a name in braces, as in "{alice} in snow"')
    return names
