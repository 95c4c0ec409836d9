"""LoRA files of other programs: a persona from one, and a persona as one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmagic.errors import Incompatible, UsageError
from pmagic.library import lora_file
from pmagic.persona import MAX_TOKENS
from pmagic.tasks import base_options, drawing
from pmagic.tasks.reporting import Reporter

if TYPE_CHECKING:
    from pmagic.persona import Persona

FORMATS = ("peft", "kohya")
_ADAPTER = "adapter_config.json"  # peft's, beside its safetensors file
_MAX_ADAPTER = 1024**2  # bytes


def import_lora(reporter: Reporter, path: Path, base: str | None, words: str | None) -> "Persona":
    """The persona of a LoRA file for Stable Diffusion, drawn on `base`, whose name stands for `words` in a prompt.

    Warns of what is left out of the file. Raises UsageError, NotFound, BundleDamaged, Incompatible, WeightsMissing.
    """
    spec = base_options.choose_base(base)
    base_options.quiet_libraries()
    file = lora_file.read(path)
    adapter = _adapter_config(path.with_name(_ADAPTER))

    from pmagic.bases import loading, local_bases
    from pmagic.engine import lora_import, prompts
    from pmagic.methods import lora

    imported = lora_import.import_lora(file, spec, adapter)
    words = file.metadata.get(lora_import.TRIGGER) if words is None else words
    if words is None:
        proposed = lora_import.trigger_words(file.metadata)
        said = f"its metadata name: {', '.join(proposed)}" if proposed else "the page you got it from names them"
        raise UsageError(
            "a LoRA file has no name for its subject, only words that its prompts had",
            f'say them with --word, as in --word "sks person"; {said}',
        )
    words = " ".join(words.split())
    tokenizer = prompts.load_tokenizer(spec.local_folder)
    prompts.check_text(words, "--word")
    tokens = len(tokenizer(words, add_special_tokens=False).input_ids)
    if not 1 <= tokens <= MAX_TOKENS or any(each in words for each in "{}<>"):
        raise UsageError(
            f"--word must be 1 to {MAX_TOKENS} tokens without brackets, not {words[:80]!r} ({tokens} tokens)",
            'give for example --word "sks person"',
        )
    for each in imported.left_out:
        reporter.warn(f"not imported: {each}")
    fingerprint = loading.fingerprint(spec.local_folder)
    local_bases.remember(spec, fingerprint)
    source: dict[str, Any] = {"format": imported.kind, "sha256": file.sha256, "left_out": list(imported.left_out)}
    return lora.persona_of_file(spec.title, fingerprint, words, tokens, imported.tensors, source)


@dataclass(frozen=True)
class LoraFiles:
    """One or two files for other programs. words: what a prompt says for the persona. facts: what was lost, by name."""

    lora: bytes
    word: bytes | None  # the embedding of a word that the base does not have
    words: str
    facts: Mapping[str, object]


def export_lora(reporter: Reporter, name: str, persona: "Persona", form: str) -> LoraFiles:
    """A persona that consists of differences of weights, as a LoRA file in one of FORMATS.

    Warns of what such a file cannot hold. Raises UsageError, and Incompatible for a persona of embeddings.
    """
    if form not in FORMATS:
        raise UsageError(f"there is no format {form!r}", f"choose one of: {', '.join(FORMATS)}, or leave out --format")
    from pmagic.engine import lora_export
    from pmagic.methods import _weights

    lora_export.require_differences(persona)
    spec = drawing.find_base([(name, persona)])
    base_options.quiet_libraries()
    exported = lora_export.export_lora(persona, spec)
    vector = persona.tensors.get(_weights.PHRASE)
    words, own_word = lora_export.word_of(persona, name, _weights.RARE, vector, spec)
    if exported.left_out:
        reporter.warn(
            f"a LoRA holds matrices only: {len(exported.left_out)} trained biases and norms are left out "
            f"({exported.left_out[0]}, ...)"
        )
    if exported.lost > 1e-6:
        reporter.warn(f"{exported.lost:.2%} of the difference's square is not in the file")
    facts = {"words": words, "ranks": list(exported.ranks), "lost": exported.lost, "left_out": list(exported.left_out)}
    word = lora_export.word_bytes(name, vector) if own_word and vector is not None else None
    file = lora_export.lora_bytes(exported, form, words if word is None else None)
    return LoraFiles(file, word, words, facts)


def _adapter_config(path: Path) -> dict[str, Any] | None:
    """peft's configuration beside a file, None if there is none. Raises Incompatible if it cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_ADAPTER:
            return None
        table = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise Incompatible(f"{path} cannot be read: {error}", "restore that file, or take it away") from error
    return table if isinstance(table, dict) else None
