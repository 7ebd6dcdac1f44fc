"""transformers' tokenizer files <-> our Vocabulary, and the order of the output layer's rows.

In transformers the blank is the padding token, in any row.  Here it is row 0, which has fairseq's
name `<s>`; `<pad>`, `</s>` and `<unk>` follow:

    row here   name here   their token
    0          <s>         pad_token: the blank
    1          <pad>       bos_token
    2          </s>        eos_token
    3          <unk>       unk_token
    4 ...      symbols     all others, ascending by their id
"""

import re
from pathlib import Path
from typing import Any

from wav2vec2.cli.errors import UserError
from wav2vec2.files.model_folder import REFETCH, read_object
from wav2vec2.files.text import shown
from wav2vec2.interop.state_dict import pick_language
from wav2vec2.text.vocabulary import SPECIALS, WORD_END, Spelling, Vocabulary

ROLES = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
"""The tokens in transformers of the first rows here, and their default names."""

_TOKENIZERS = {
    "Wav2Vec2CTCTokenizer": Spelling.LETTERS,
    "Wav2Vec2Tokenizer": Spelling.LETTERS,  # its name before 2021
    "Wav2Vec2PhonemeCTCTokenizer": Spelling.TOKENS,
}


def read_vocabulary(
    folder: Path, config: dict[str, Any], size: int, language: str = ""
) -> tuple[Vocabulary, list[int | None]]:
    """The vocabulary of a folder, and the row of each symbol in its output layer of `size` rows.

    `language`: as of `choose_language`.  The row is None for a special token that they lack.
    Tokens that their decoder writes alike become units of one symbol: white space beside the word
    delimiter, and both cases if it lowers them.  A row in a gap of the ids is written as <unk>, as
    there.  UserError names the file and the token if tokens and rows do not match, or a token
    cannot be a symbol here.
    """
    path = folder / "tokenizer_config.json"
    options = read_object(path) if path.is_file() else {}
    spelling = _spelling(options, path)
    ids = _read_ids(folder, options, language)
    names = _role_names(folder, options, ids, size)
    _check_blank(folder, config, names["pad_token"], ids, size)
    # A special token outside the output layer is one that they lack.
    rows = [row if row is not None and row < size else None for row in map(ids.get, names.values())]
    symbols: list[str] = []
    tokens = {row: token for token, row in ids.items() if token not in names.values()}
    for row in sorted(tokens.keys() | _gaps(folder, ids, size)):
        if row >= size:  # no output for it: the model never writes it
            continue
        rows.append(row)
        known = row in tokens
        symbols.append(_symbol(tokens[row], options, spelling, folder) if known else "<unk>")
    if not symbols:
        raise UserError(f"{folder / 'vocab.json'}: lists no symbols; fetch it again")
    return Vocabulary(symbols, spelling, repeated=True), rows


def _gaps(folder: Path, ids: dict[str, int], size: int) -> set[int]:
    """The rows of the output layer below the last token's that have none; UserError if there are
    rows behind it."""
    nameless = set(range(size)) - set(ids.values())
    last = max(row for row in ids.values() if row < size)
    behind = sorted(row for row in nameless if row > last)
    if behind:
        raise UserError(
            f"{folder / 'vocab.json'}: has no token for {', '.join(map(str, behind[:10]))} of the "
            f"{size} rows of the output layer; add them, or fetch added_tokens.json, too"
        )
    return nameless


def _spelling(options: dict[str, Any], path: Path) -> Spelling:
    name = options.get("tokenizer_class", "Wav2Vec2CTCTokenizer")
    name = name.removesuffix("Fast") if isinstance(name, str) else shown(name)
    if name not in _TOKENIZERS:
        raise UserError(
            f"{path}: tokenizer_class is {shown(name)}; only {', '.join(_TOKENIZERS)} can be read "
            "here"
        )
    joint = options.get("replace_word_delimiter_char", " ")
    if joint != " ":
        raise UserError(
            f"{path}: replace_word_delimiter_char is {shown(joint)}; here words are separated by "
            "spaces"
        )
    return _TOKENIZERS[name]


def choose_language(folder: Path, given: str | None) -> str:
    """The language of a folder whose vocab.json has a vocabulary for each; see `pick_language`."""
    path = folder / "vocab.json"
    content = read_object(path) if path.is_file() else {}
    names = sorted(name for name, value in content.items() if isinstance(value, dict))
    odd = [name for name in names if not re.fullmatch(r"[\w-]+", name)]
    if odd or (names and len(names) != len(content)):
        raise UserError(f"{path}: damaged, mixes languages and tokens; {REFETCH}")
    return pick_language(names, given, folder)


def _read_ids(folder: Path, options: dict[str, Any], language: str) -> dict[str, int]:
    """Token -> row, from vocab.json and the tokens added to it."""
    path = folder / "vocab.json"
    ids = read_object(path)
    if language:
        ids = dict(ids[language])
    taken: dict[int, str] = {}
    for token, row in ids.items():
        if not isinstance(row, int) or isinstance(row, bool) or row < 0:
            raise UserError(
                f"{path}: {shown(token)} has the id {shown(row)}, not a whole number from 0"
            )
        if row in taken:
            raise UserError(
                f"{path}: {shown(taken[row])} and {shown(token)} have the same id {row}"
            )
        taken[row] = token
    for token, row in _added_tokens(folder, options).items():
        # vocab.json has precedence over added tokens.
        if token not in ids and row not in taken:
            ids[token], taken[row] = row, token
    return ids


def _content(token: Any) -> Any:
    """The text of a token, which may be an object with more settings."""
    return token.get("content") if isinstance(token, dict) else token


def _added_tokens(folder: Path, options: dict[str, Any]) -> dict[str, int]:
    """Tokens outside vocab.json: in the files of older and of newer versions."""
    path = folder / "added_tokens.json"
    added = dict(read_object(path)) if path.is_file() else {}
    listed = options.get("added_tokens_decoder", {})
    try:
        added.update({_content(token): int(row) for row, token in listed.items()})
        if all(isinstance(t, str) and isinstance(r, int) and r >= 0 for t, r in added.items()):
            return added
    except (AttributeError, TypeError, ValueError):
        pass
    raise UserError(
        f"{folder}: the added tokens in tokenizer_config.json or added_tokens.json are not tokens "
        "with whole numbers from 0; fetch both again"
    )


def _role_names(
    folder: Path, options: dict[str, Any], ids: dict[str, int], size: int
) -> dict[str, str | None]:
    """The token of each role; None if there is none.

    Adds to `ids` what their tokenizer adds: a role's token that no file lists is the next one, and
    has a row if the output layer of `size` rows is long enough.
    """
    path = folder / "special_tokens_map.json"
    options = {**(read_object(path) if path.is_file() else {}), **options}
    names: dict[str, str | None] = {}
    for role, default in ROLES.items():
        candidates = (_content(options.get(role, default)), default)
        free = (n for n in candidates if isinstance(n, str) and n in ids.keys() - names.values())
        names[role] = next(free, None)
        if role == "pad_token" and names[role] != candidates[0]:
            raise UserError(
                f"{folder / 'vocab.json'}: does not list the pad_token {shown(candidates[0])}, "
                "which is CTC's blank; fetch the tokenizer files that belong to this model"
            )
        wanted = candidates[0]
        if names[role] is None and isinstance(wanted, str) and wanted not in ids:
            row = len(ids)
            if row < size and row not in ids.values():
                ids[wanted], names[role] = row, wanted
    if names["bos_token"] is None and "<pad>" in ids.keys() - names.values():
        names["bos_token"] = "<pad>"  # beside another blank; row 1 has this name here
    return names


def _check_blank(
    folder: Path, config: dict[str, Any], blank: str | None, ids: dict[str, int], size: int
) -> None:
    """Raise UserError unless config.json, as trained, and the tokenizer have the same blank."""
    trained = config.get("pad_token_id")
    assert blank is not None
    if ids[blank] >= size:
        raise UserError(
            f"{folder / 'vocab.json'}: lists the blank {shown(blank)} as {ids[blank]}, but the "
            f"output layer has {size} rows; fetch the tokenizer files that belong to this model"
        )
    if trained is not None and trained != ids[blank]:
        raise UserError(
            f"{folder / 'config.json'}: pad_token_id is {trained}, but the tokenizer's pad_token "
            f"{shown(blank)} is {ids[blank]}; set it to the id of the blank it was trained with"
        )


def _symbol(token: str, options: dict[str, Any], spelling: Spelling, folder: Path) -> str:
    """The symbol of a token; UserError if it cannot be in a dictionary."""
    if spelling is Spelling.LETTERS:
        if token == _content(options.get("word_delimiter_token", WORD_END)):
            return WORD_END
        if token.isspace():  # written as it is, which ends a word
            return WORD_END
        if token == WORD_END:
            raise UserError(
                f"{folder / 'vocab.json'}: {WORD_END!r} is a token but not the "
                f"word_delimiter_token, which it stands for here; rename it"
            )
        if options.get("do_lower_case") is True:  # their tokenizer writes it in lower case
            token = token.lower()
    if token.split() != [token]:
        raise UserError(
            f"{folder / 'vocab.json'}: the token {shown(token)} is empty or has white space; "
            "rename it to a symbol without"
        )
    return token


def tokenizer_files(vocabulary: Vocabulary, folder: Path) -> dict[str, dict[str, Any]]:
    """The content of the tokenizer's files by their names; the rows keep their order.

    UserError for sentencepiece units, which no CTC tokenizer of transformers joins into words.
    """
    if vocabulary.spelling is Spelling.PIECES:
        raise UserError(
            f"{folder}: not written; transformers has no CTC tokenizer for sentencepiece units, "
            "only for letters and phonemes"
        )
    require_unique(vocabulary, folder)
    symbols = (*ROLES.values(), *vocabulary.symbols[len(SPECIALS) :])
    options: dict[str, Any] = {"tokenizer_class": "Wav2Vec2CTCTokenizer", **ROLES}
    if vocabulary.spelling is Spelling.LETTERS:
        options |= {
            "word_delimiter_token": WORD_END,
            "replace_word_delimiter_char": " ",
            "do_lower_case": False,
        }
    else:
        options |= {
            "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
            "word_delimiter_token": None,
            "phone_delimiter_token": " ",
            "do_phonemize": False,
        }
    return {
        "vocab.json": {symbol: row for row, symbol in enumerate(symbols)},
        "tokenizer_config.json": options,
        "special_tokens_map.json": dict(ROLES),
    }


def require_unique(vocabulary: Vocabulary, folder: Path) -> None:
    """UserError, naming `folder`, if two units are written alike: files there list each once."""
    if vocabulary.repeats:
        raise UserError(
            f"{folder}: not written; two units of its dictionary are written alike, which "
            "vocab.json cannot list"
        )
