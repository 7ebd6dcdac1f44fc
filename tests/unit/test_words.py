"""README, changelog, docs, help texts and messages are short sentences in the field's words."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SOURCES = [
    *(ROOT / name for name in ("train.py", "inference.py")),
    *(p for name in ("common", "tasks", "utils", "wav2vec2") for p in (ROOT / name).rglob("*.py")),
]
SCRIPTS = sorted(p for p in (ROOT / "scripts").rglob("*") if p.suffix in (".sh", ".sbatch"))
MOST_WORDS = 35

COUNTED = "samples|seconds|hours|updates|sub-batches|batches|frames|bits|words|MB|GB|%"
UNIT = (
    "minute|hour|day|update|sub-batch|batch|utterance|process|GPU|device|node|machine|frame|step|"
    "epoch|word|interval|core|corpus"
)
"""What figures are given per."""
PHRASES = {
    # figures
    r"\b(seconds?|samples|updates?|frames|targets|audio|steps) a second\b": "per second",
    r"\d a second\b": "per second",
    rf"\b({COUNTED}) an? ({UNIT})\b": "per",
    # what a run does
    r"\b(goes|go|gone|went|going) on\b(?! (and|the|a|to the disk)\b)": "resume, continue",
    r"\bcarr(y|ies) on\b": "resume, continue",
    r"\bto the (bit|digit)\b": "bit-exact, bitwise identical",
    r"\bgeometry\b": "effective batch size; sub-batches per update",
    r"\bproduct of batches\b": "effective batch size",
    r"\brecipe's product\b": "the recipe's number of sub-batches per update",
    r"\bmasters\b": "master weights",
    r"\b(said|says|say) (aloud|so)\b": "prints a warning",
    r"\bfor want of\b": "before aborting",
    r"\banew\b": "again",
    # speech
    r"\bhears?\b|\bheard\b|\bhearing\b": "transcribe, process, train on; reference, hypothesis",
    r"\b(not|never|nothing) (said|heard)\b": "deletion, insertion",
    r"\banother word\b": "substitution",
    r"\bcompanions?\b": "the other utterances in the batch",
    r"\bwhat follows its end\b": "padding",
    r"\b(its|the) factor\b": "pooling factor, shortening factor",
    # what a reader does
    r"\b(the|a) way out\b": "how to fix it",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(leaves?|left|leaving) out\b": "skip, ignore, drop",
    r"\bunless told otherwise\b|\bby (itself|themselves)\b": "default; automatically",
    r"\bhand(s|ed)? on\b": "share, pass",
    # memory and work
    r"\bwhat is held\b": "memory, peak memory; what is tested",
    r"\broom (for|in|to)\b|\bthere is (no )?room\b": "memory, space",
    r"\bdecodes? audio beside\b": "data loading workers",
    r"\bforetells?\b": "predict",
    r"\bgrain of salt\b|\bwith salt\b": "approximate",
}
"""Phrase (regular expression, any case) -> what to write in its place."""
EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(file, the words around the phrase) -> why they stay."""


# --- What a person reads


def prose(markdown):
    """The paragraphs, list items and table cells of a page, without its code blocks."""
    text = re.sub(r"<!--.*?-->", "", markdown, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?^ *```", "\n", text, flags=re.DOTALL | re.MULTILINE)
    paragraph = []
    for line in [*text.splitlines(), ""]:
        line = line.strip()
        if not line or re.match(r"[-*+] |\d+\. |#|\||> ", line):
            yield " ".join(paragraph)
            paragraph = []
        if line.startswith("|"):
            yield from (cell.strip() for cell in re.split(r"(?<!\\)\|", line))
        elif line:
            paragraph.append(re.sub(r"^([-*+]|\d+\.|#+|>) ", "", line))


def without_code(text):
    """A span of code and a link's target are one word at most."""
    text = re.sub(r"`[^`]*`", "CODE", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def sentences(text):
    """A sentence ends at `.`, `!` or `?` before a space, except in the abbreviations below."""
    text = re.sub(r"\b(e\.g|i\.e|etc|vs|cf)\.", r"\1", without_code(text))
    return [s for s in re.split(r"(?<=[.!?])[)\"'*]*\s+", text) if s]


def count_words(sentence):
    """What stands between spaces and holds a letter or digit."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def strings(node):
    """The texts within an expression; in f-strings `...` stands for what is inserted."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(v.value if isinstance(v, ast.Constant) else "..." for v in node.values)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


SPEAKING = ("print", "notice", "warn", "warning", "info", "error", "describe")


def spoken(source):
    """The help texts and messages of a module."""
    tree = ast.parse(source)
    if "__doc__" in source:  # a command's description
        yield ast.get_docstring(tree) or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):  # a docstring under an option is its help
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    yield from strings(text)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            if name in SPEAKING or name.endswith(("Error", "Lost", "Refused")):
                yield from strings(node)
            yield from (t for k in node.keywords if k.arg == "help" for t in strings(k.value))


def echoed(script):
    """The messages of a shell script."""
    return re.findall(r"^.*\becho (.*)", script.replace("\\\n", " "), flags=re.MULTILINE)


# --- What is wrong with it


def long_sentences(markdown):
    for paragraph in prose(markdown):
        for sentence in sentences(paragraph):
            if count_words(sentence) > MOST_WORDS:
                yield f"{count_words(sentence)} words: {sentence}"


def wrong_words(texts, file=""):
    allowed = [words for name, words in EXCEPTIONS if name == file]
    for text in texts:
        text = " ".join(without_code(text).split())
        for words in allowed:
            text = text.replace(words, "")
        for phrase, better in PHRASES.items():
            for found in re.finditer(phrase, text, flags=re.IGNORECASE):
                around = text[max(0, found.start() - 30) : found.end() + 30]
                yield f"{found[0]!r} in {around!r}: write {better!r}"


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_page_has_short_sentences_in_usual_words(path):
    text = path.read_text("utf-8")
    assert list(long_sentences(text)) == []
    assert list(wrong_words(prose(text), name_of(path))) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_help_and_messages_are_in_usual_words(path):
    assert list(wrong_words(spoken(path.read_text("utf-8")), name_of(path))) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_messages_of_scripts_are_in_usual_words(path):
    assert list(wrong_words(echoed(path.read_text("utf-8")), name_of(path))) == []


def test_lists_name_what_is_there():
    for name, _ in EXCEPTIONS:
        assert (ROOT / name).is_file(), name
    for name, words in EXCEPTIONS:
        text = (ROOT / name).read_text("utf-8")
        text = " ".join(text.split()) if name.endswith(".md") else "\n".join(spoken(text))
        assert words in text, (name, words)


# --- The check itself


def test_a_long_sentence_is_found():
    words = "word " * 34
    page = f"{words}end. {words}end.\n\n```\n{words * 2}\n```\n\n- {words}\n- {words}\n"
    page += f"| {words} | {words} |\n|---|---|\n\n{words}`a b c`\n"
    assert list(long_sentences(page)) == []
    assert len(list(long_sentences(f"{words}one two"))) == 1
    assert len(list(long_sentences(f"# Title\n\n{words}e.g. this"))) == 1
    assert len(list(long_sentences(f"| a | {words} b c |"))) == 1


@pytest.mark.parametrize(
    "text, phrase",
    [
        ("It takes 12 updates a second.", "updates a second"),
        ("16,000 a second", "0 a second"),
        ("the hours of audio an update sees, 2 hours an update", "hours an update"),
        ("The run goes on from there.", "goes on"),
        ("It is left out of `left out`.", "left out"),
        ("Resumes\nto the\nbit.", "to the bit"),
        ("fp32 masters", "masters"),
        ("voices never heard before", "heard"),
        ("for a second, a second run goes on the GPU", None),
        ("`LEFT OUT` [here](left out)", None),
    ],
)
def test_a_wrong_word_is_found(text, phrase):
    found = list(wrong_words([text]))
    assert (phrase is None and not found) or any(repr(phrase) in line for line in found), found


def test_help_and_messages_are_collected():
    source = '''"""Description."""
class Options:
    rate: int = 1
    """Help of rate."""
parser.add_argument("--x", help="help of x")
print("plain", f"{a} inserted")
raise UserError(f"{a}: joined " "by place" if a else "other")
value = "not shown"
parse(__doc__)
'''
    assert sorted(spoken(source)) == sorted(
        ["Description.", "Help of rate.", "help of x", "plain", "... inserted"]
        + ["...: joined by place", "other"]
    )
    script = "# comment\nif true; then\n    echo \"one\" \\\n        'two' >&2\nfi\n"
    assert echoed(script) == ["\"one\"          'two' >&2"]
