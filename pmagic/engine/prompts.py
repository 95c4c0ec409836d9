"""Prompts: the prompts used in training, and the checks that a prompt must pass. This module does not import torch.

A prompt holds `{}` where the name stands, or names in braces if there are several: `{alice} and {bob}`. Placeholders
are positions, not words: no token is added to any tokenizer, so no word that a user types can collide with a persona.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pmagic.bases.offline import offline
from pmagic.errors import Incompatible, UsageError

NAME = "{}"
_IN_BRACES = re.compile(r"\{([^{}]*)\}")
MAX_BYTES = 1024**2  # of a file of prompts
# Syntax that other tools interpret in a prompt. Here it is plain text, as in the stock pipeline.
_INSTRUCTIONS = re.compile(
    r"\([^()]*:\s*-?\d+(?:\.\d*)?\s*\)"  # (word:1.3)
    r"|\(\([^()]*\)+"  # ((word))
    r"|\[[^\[\]]+\]"  # [word], [from:to:0.5], [this|that]
    r"|<(?:lora|lyco|hypernet|embedding):[^<>]*>"
    r"|\bembedding:[\w.-]+"
    r"|\b(?:BREAK|AND)\b"
    r"|\w(?:\+\+|--)(?!\w)"  # word++
    r"|\)(?:\++|-+)"
    r"|__[\w/-]+__"  # a wildcard's file
)
_SHOWN = 8  # tokens quoted in a message to show where the model stops reading

Kind = Literal["face", "object", "style"]  # of a subject
# The usual textual-inversion templates (Gal et al. 2023), by kind of subject.
TEMPLATES: dict[Kind, tuple[str, ...]] = {
    "face": (
        "a photo of a {}",
        "a photo of the {}",
        "a photo of one {}",
        "a photo of a nice {}",
        "a photo of the nice {}",
        "a good photo of a {}",
        "a good photo of the {}",
        "a bright photo of the {}",
        "a close-up photo of a {}",
        "a close-up photo of the {}",
        "a cropped photo of a {}",
        "a cropped photo of the {}",
        "a rendering of a {}",
        "a rendition of the {}",
    ),
    "object": (
        "a photo of a {}",
        "a photo of the {}",
        "a photo of my {}",
        "a photo of one {}",
        "a photo of a clean {}",
        "a photo of a dirty {}",
        "a photo of a cool {}",
        "a photo of a nice {}",
        "a photo of a small {}",
        "a photo of a large {}",
        "a good photo of a {}",
        "a dark photo of the {}",
        "a bright photo of the {}",
        "a close-up photo of a {}",
        "a cropped photo of the {}",
        "a rendering of a {}",
    ),
    "style": (
        "a painting in the style of {}",
        "a rendering in the style of {}",
        "a cropped painting in the style of {}",
        "the painting in the style of {}",
        "a dark painting in the style of {}",
        "a bright painting in the style of {}",
        "a close-up painting in the style of {}",
        "a good painting in the style of {}",
        "a small painting in the style of {}",
        "a large painting in the style of {}",
    ),
}

# Open prompts of tandem equilibrium: everyday scenes in our own words; none is among the evaluation prompts.
OPEN_PROMPTS: tuple[str, ...] = (
    "{} watering tomato plants in a greenhouse",
    "{} playing the cello on a dim stage",
    "{} wearing a yellow raincoat at a bus stop",
    "a marble bust of {} in a museum hall",
    "{} rowing a wooden boat across a lake",
    "a stained glass window that shows {}",
    "{} repairing a bicycle in a garage",
    "{} with a parrot on one shoulder",
    "a postage stamp with the face of {}",
    "{} riding a camel through the dunes",
    "{} as a lighthouse keeper holding a lantern",
    "a watercolour sketch of {} beside a river",
    "{} blowing out candles on a birthday cake",
    "{} in a velvet theatre seat eating popcorn",
    "{} fishing from a pier at sunrise",
    "a chalk drawing of {} on a pavement",
    "{} wearing headphones in a recording studio",
    "{} carrying a stack of books up a staircase",
    "{} as a gardener with a straw hat",
    "{} waving from the window of a train",
)

# The paper uses twice as many open prompts as the authors' code.
MORE_OPEN_PROMPTS: tuple[str, ...] = (
    "{} kneading dough in a small bakery",
    "{} under a red umbrella in the rain",
    "a bronze coin with the profile of {}",
    "{} feeding pigeons on a square",
    "{} as a beekeeper beside wooden hives",
    "{} reading a newspaper on a tram",
    "a papier-mache mask of {}",
    "{} building a sand castle with a bucket",
    "{} wearing a graduation gown in a courtyard",
    "a woodcut of {} beneath tall pines",
    "{} polishing a trumpet in a workshop",
    "{} drinking tea on a balcony full of flowers",
    "{} as a diver with a brass helmet",
    "{} asleep in a hammock between two trees",
    "a mosaic of {} on a bathroom wall",
    "{} pushing a wheelbarrow of pumpkins",
    "{} wearing a knitted scarf at a market stall",
    "a puppet that looks like {} in a toy shop",
    "{} painting a fence on a farm",
    "{} holding an old map in a canyon",
)

# Words for people, who have a face.
FACE_WORDS = (
    "face", "person", "man", "woman", "boy", "girl", "child", "portrait", "people", "human", "men", "women", "boys",
    "girls", "children", "kid", "baby", "toddler", "teenager", "adult", "guy", "gentleman", "lady", "male", "female",
    "selfie", "headshot", "mother", "father", "mom", "dad", "son", "daughter", "brother", "sister", "wife",
    "husband", "grandma", "grandpa", "grandmother", "grandfather", "uncle", "aunt", "bride", "groom", "actor",
    "actress", "celebrity", "singer",
)  # fmt: skip
STYLE_WORDS = ("painting", "style", "drawing", "sketch", "illustration", "photo", "photograph", "cartoon", "art")
COMMON_WORDS = ("face", "person", "man", "woman", "boy", "girl", "cat", "dog", "toy", "cup", "painting", "style")


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as input for the text encoder. ids and placeholder_index have one entry per text position (77).

    placeholder_index: k where placeholder k stands, -1 elsewhere; k counts over all names, in the order in which they
    were given.
    length: the number of tokens without start and end. cut: the text that did not fit.
    """

    ids: tuple[int, ...]
    placeholder_index: tuple[int, ...]
    length: int
    cut: str


def load_tokenizer(folder: Path) -> Any:
    """The CLIP tokenizer of a base. folder: its `tokenizer` folder or the folder of the base.

    Raises Incompatible if there is no tokenizer or it cannot be read.
    """
    from transformers import CLIPTokenizer

    own = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    if not any((own / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        # Without these files, transformers silently returns a tokenizer of two tokens.
        raise Incompatible(f"{own} holds no tokenizer (vocab.json or tokenizer.json)", "restore the base's folder")
    try:
        with offline():
            return CLIPTokenizer.from_pretrained(own, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise Incompatible(f"the tokenizer in {own} cannot be read: {error}", "restore the base's folder") from error


def check_word(tokenizer: Any, word: str) -> int:
    """The token id of a super-category word. Raises UsageError, with suggestions, unless it is exactly one token."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) == 1 and ids[0] not in tokenizer.all_special_ids:
        return int(ids[0])
    good = _single_token_words(tokenizer, [*word.split(), *_close_words(tokenizer, word), *COMMON_WORDS])
    raise UsageError(
        f"the super-category {word!r} is {len(ids)} tokens for this base, and must be a single one",
        f"use one of: {', '.join(good[:6])}" if good else "use another word",
    )


def check_text(text: str, what: str = "the prompt") -> None:
    """Raises UsageError for text that is not valid Unicode or has control characters other than tabs and line ends."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not valid text", "check the terminal's encoding") from error
    for each in text:
        if unicodedata.category(each) == "Cc" and each not in "\t\n\r":
            raise UsageError(f"{what} holds the control character U+{ord(each):04X}", "leave it out")


def read_prompts(data: bytes, source: str) -> list[tuple[int, str]]:
    """Pairs of (line number, prompt) from a text with one prompt per line; empty lines and # comments are skipped.

    Lines end with LF, CR or CRLF only. source: the name of the text in messages. Raises UsageError, which names the
    line.
    """
    if len(data) > MAX_BYTES:
        raise UsageError(f"{source} holds more than {MAX_BYTES // 1024**2} MB", "give one prompt a line")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text: {error.reason}", "save it as UTF-8") from error
    found = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        prompt = line.strip(" \t")
        if not prompt or prompt.startswith("#"):
            continue
        check_text(prompt, f"{source}, line {number}:")
        found.append((number, prompt))
    if not found:
        raise UsageError(f"{source} holds no prompt", "write one a line; lines that begin with # do not count")
    return found


def instructions(text: str) -> list[str]:
    """Syntax in a prompt that other tools interpret: `(word:1.3)`, `[word]`, `BREAK`, `<lora:x:1>`; each once."""
    return list(dict.fromkeys(found[0] for found in _INSTRUCTIONS.finditer(text)))


def bare_names(prompt: str, personas: Collection[str]) -> list[str]:
    """The personas whose names appear in a prompt as ordinary words, without braces."""
    plain = _IN_BRACES.sub(" ", prompt)
    return [each for each in personas if re.search(rf"(?<!\w){re.escape(each)}(?!\w)", plain, re.IGNORECASE)]


def unread(tokenizer: Any, text: str) -> str:
    """The end of a text without names that the model does not read, or "" if it reads everything."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return tokenizer.decode(ids[tokenizer.model_max_length - 2 :]).strip()


def names(prompt: str) -> list[str]:
    """The names in braces, each once, in the order in which they first appear; `{}` is the empty name."""
    return list(dict.fromkeys(_IN_BRACES.findall(prompt)))


def stray_brace(prompt: str) -> str:
    """The prompt from the first unpaired brace on, or "" if there is none."""
    rest = _IN_BRACES.sub(lambda name: " " * len(name[0]), prompt)
    first = re.search(r"[{}]", rest)
    return prompt[first.start() :] if first else ""


def check_prompt(tokenizer: Any, prompt: str, tokens: int) -> TokenizedPrompt:
    """The prompt with `tokens` placeholders at each `{}`; see check_names."""
    return check_names(tokenizer, prompt, {"": tokens})


def check_names(tokenizer: Any, prompt: str, tokens: Mapping[str, int]) -> TokenizedPrompt:
    """The prompt with tokens[name] placeholders at each `{name}`. Raises UsageError if a name is missing or cut off.

    A prompt may otherwise be too long: `cut` holds the text that the model does not read.
    """
    for name in tokens:
        if in_braces(name) not in prompt:
            raise _nameless(prompt, name)
    return tokenize_prompt(tokenizer, prompt, tokens, filler=tokenizer.eos_token_id)


def substitute_names(prompt: str, words: Mapping[str, str]) -> str:
    """The prompt with plain words in place of the names. Raises UsageError if one of the names is missing."""
    for name, word in words.items():
        if in_braces(name) not in prompt:
            raise _nameless(prompt, name)
        prompt = prompt.replace(in_braces(name), word)
    return prompt


def tokenize_prompt(tokenizer: Any, prompt: str, tokens: Mapping[str, int], filler: int) -> TokenizedPrompt:
    """Tokenize the text around each `{name}` and put tokens[name] placeholders there, with the id `filler`.

    The text between names is tokenized exactly as if the placeholders were added tokens of the tokenizer.
    Raises UsageError for an unknown name and for a name beyond the tokens that the model reads.
    """
    room = tokenizer.model_max_length - 2
    first, count = {}, 0
    for name in tokens:
        first[name] = count
        count += tokens[name]
    ids: list[int] = []
    placeholder_index: list[int] = []
    for number, part in enumerate(_IN_BRACES.split(prompt)):
        if number % 2 == 0:  # text and names alternate
            words = tokenizer(part, add_special_tokens=False, verbose=False).input_ids if part.strip() else []
            ids += words
            placeholder_index += [-1] * len(words)
            continue
        if part not in tokens:
            raise UsageError(f"the prompt names {in_braces(part)}, which stands for nothing", "name personas in braces")
        ids += [filler] * tokens[part]
        placeholder_index += range(first[part], first[part] + tokens[part])
        if len(ids) > room:
            ending = _ending(tokenizer, ids, placeholder_index, room)
            raise UsageError(
                f"the prompt is too long: {f'{in_braces(part)} stands' if part else 'the name stands'} beyond the "
                f"{room} tokens that the model reads, which end after {ending!r}",
                f"put {in_braces(part)} nearer to the beginning, or shorten the prompt",
            )
    cut = tokenizer.decode(ids[room:]).strip() if len(ids) > room else ""
    ids, placeholder_index = ids[:room], placeholder_index[:room]
    padding = room - len(ids)
    return TokenizedPrompt(
        ids=(tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding),
        placeholder_index=(-1, *placeholder_index, -1, *[-1] * padding),
        length=len(ids),
        cut=cut,
    )


def in_braces(name: str) -> str:
    """`alice` -> `{alice}`."""
    return NAME[0] + name + NAME[1]


def _ending(tokenizer: Any, ids: Sequence[int], placeholder_index: Sequence[int], room: int) -> str:
    """The last words that the model reads of a prompt that is too long."""
    last = [token for token, slot in zip(ids[:room], placeholder_index, strict=False) if slot < 0]
    return tokenizer.decode(last[-_SHOWN:]).strip()


def _nameless(prompt: str, name: str) -> UsageError:
    return UsageError(
        f"the prompt {prompt!r} has no {in_braces(name)}", f"write {in_braces(name)} where the name stands"
    )


def _single_token_words(tokenizer: Any, words: Sequence[str]) -> list[str]:
    unique = dict.fromkeys(words)
    return [each for each in unique if len(tokenizer(each, add_special_tokens=False).input_ids) == 1]


def _close_words(tokenizer: Any, word: str) -> list[str]:
    """Words that differ from `word` by a typing error; less similar ones would be other words, or no words at all."""
    whole = [token.removesuffix("</w>") for token in tokenizer.get_vocab() if token.endswith("</w>")]
    alike = difflib.get_close_matches(word.lower(), COMMON_WORDS, n=2, cutoff=0.6)
    return [
        *alike,
        *difflib.get_close_matches(word.lower(), [each for each in whole if each.isalpha()], n=2, cutoff=0.85),
    ]
