"""The pocket model's tokenizer: a known name or word is one token, a fake name is two syllables, anything else goes by
letters.

Decoding gives back the text exactly: a space belongs to the word after it, a newline is a token of its own.
"""

import re
import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lora_reuse.llm.data.names import FIRST, LAST, cities, people

SPACE = "▁"
WORD = r"\w+(?:-\w+)*"
EOS, UNKNOWN = "<eos>", "<unk>"


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer whose words are those of `texts` (templates and styles), the real names, and the syllables
    of the fake ones."""
    names = sorted((*(person.name for person in people()), *cities()), key=lambda name: (-len(name), name))
    listed = "|".join(re.escape(name).replace("\\ ", SPACE).replace(" ", SPACE) for name in names)
    words = {word for text in texts for word in re.findall(WORD, text)}
    letters = string.ascii_letters + string.digits
    pieces = [
        EOS,
        UNKNOWN,
        "\n",
        "'s",
        *string.punctuation,
        *letters,
        *(SPACE + mark for mark in string.punctuation),
        SPACE,
    ]
    pieces += [SPACE + letter for letter in letters] + ["##" + letter for letter in (*letters, SPACE)]
    pieces += [SPACE + word for word in (*sorted(words), *(name.replace(" ", SPACE) for name in names), *FIRST)] + [
        "##" + last for last in LAST
    ]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix="##"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace("\n", "\n" + SPACE), normalizers.Replace(" ", SPACE)]  # pyright: ignore[reportArgumentType]
    )
    split = Regex(rf"{SPACE}?(?:{listed})(?!\w)|'s(?!\w)|{SPACE}?{WORD}|\n|{SPACE}?[^\w\s{SPACE}]|{SPACE}")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(split, behavior="isolated")
    plain = [
        decoders.Replace("##", ""),
        decoders.Fuse(),
        decoders.Replace("\n" + SPACE, "\n"),
        decoders.Replace(SPACE, " "),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(plain)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
