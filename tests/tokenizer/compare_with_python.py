"""Compares our tokenizer with the Python package `tokenizers`. Not part of the default tests.

    cmake --build build --target tokenizer_probe
    python tests/tokenizer/compare_with_python.py build/tests/tokenizer/tokenizer_probe [--characters] [SEED]
    python tests/tokenizer/compare_with_python.py build/tests/tokenizer/tokenizer_probe --model DIRECTORY TEXT_FILE...

Random tokenizer.json files (every normalizer, pre-tokenizer, split behavior, decoder, flags of added tokens) on random
texts, which both must take alike. With --characters: every code point through what depends on its properties; prints
where the two differ, which is where their Unicode versions do.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

import make_golden
from tokenizers import Tokenizer

ALPHABET = (list("aabbccxyzABCXYZ019 .,'-_!?<>$|#▁Ġ\n\t\r") + ["  ", "é", "e\u0301", "\u0323", "ß", "İ", "ſ", "Σ", "ж", "Ж", "中", "文", "の",
            "한", "ﬁ", "½", "٣", "Ⅷ", "ª", "\u200d", "\u00a0", "\u2028", "\u0085", "\x0b", "\x00", "\u180e", "\u3000", "👍", "👨‍👩", "🏽", "̈", "ৄ",
            "'s", "'LL", "<s>", "<x>", "</s>", "<X>", "Tok", "tok", "to k", "\ufffd", "Ⓐ", "‿", "\u0903", "\u20dd", "ǆ", "Å", "각"])


def text(rng):
    return "".join(rng.choice(ALPHABET) for _ in range(rng.choice([0, 1, 2, 5, 20, 60])))


def pattern(rng, empty=True):
    if rng.random() < 0.3:
        return {"String": rng.choice([" ", "a", "ab", "▁", ".", "中", "  ", "$"] + [""] * empty)}
    choices = [make_golden.LLAMA3, make_golden.QWEN2, make_golden.O200K, *make_golden.DEEPSEEK, r"\s+", r"\s", r"\S+", r"\w+", r"\W",
               r"[^\w\s]", r"\d", r"\D+", r"\p{L}+", r"\P{L}", r"(?i:S|k)+", r"^.", r".$", r"[a-c]{2}+", r"\h+", r"(?m:.)x",
               r"(?<=a)b|c(?!x)", r"\p{Han}|\p{Hangul}", r"[[:space:][:alpha:]]", r"\v|\t", r"(?:ab|c){1,2}+", r"\u0301", r"\x{4e2d}", r"[\s\S]",
               r"(a)\1", r"\p{M}", r"\p{^L}+", r"x?+y", r"[.\-\]]"]
    # The package puts the content of an empty match at the wrong place.
    empty_matches = [r"a*", r"\bA?", r"\B", r"b{,2}"]
    return {"Regex": rng.choice(choices + empty_matches if empty else choices)}


def normalizer(rng, depth=0):
    kind = rng.choice(["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Prepend", "Replace", "BertNormalizer", "Sequence", None])
    flag = lambda: rng.random() < 0.5
    if kind is None:
        return None
    item = {"type": kind}
    if kind == "Strip":
        item |= {"strip_left": flag(), "strip_right": flag()}
    elif kind == "Prepend":
        item |= {"prepend": rng.choice(["▁", "a", " "])}
    elif kind == "Replace":
        item |= {"pattern": pattern(rng, False), "content": rng.choice(["", " ", "▁", "$1", "xx"])}
    elif kind == "BertNormalizer":
        item |= {"clean_text": flag(), "handle_chinese_chars": flag(), "strip_accents": rng.choice([None, True, False]), "lowercase": flag()}
    elif kind == "Sequence":
        item |= {"normalizers": [n for n in (normalizer(rng, 1) for _ in range(2)) if n] if depth == 0 else []}
    return item


def pre_tokenizer(rng, depth=0):
    kind = rng.choice(["ByteLevel", "Metaspace", "Split", "Split", "Split", "Sequence", "Sequence", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits",
                       "CharDelimiterSplit", "BertPreTokenizer", "FixedLength", None])
    flag = lambda: rng.random() < 0.5
    behavior = rng.choice(["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"])
    if kind is None:
        return None
    item = {"type": kind}
    if kind == "ByteLevel":
        item |= {"add_prefix_space": flag(), "trim_offsets": True, "use_regex": flag()}
    elif kind == "Metaspace":
        item |= {"replacement": rng.choice("▁_"), "split": flag(),
                 # The package follows characters through normalizers and other pre-tokenizers to find what is first.
                 "prepend_scheme": rng.choice(["always", "never"] + ["first"] * (depth == 0))}
    elif kind == "Split":
        item |= {"pattern": pattern(rng), "behavior": behavior, "invert": flag()}
    elif kind == "Punctuation":
        item |= {"behavior": behavior}
    elif kind == "Digits":
        item |= {"individual_digits": flag()}
    elif kind == "CharDelimiterSplit":
        item |= {"delimiter": rng.choice("a ▁")}
    elif kind == "FixedLength":
        item |= {"length": rng.choice([1, 2, 5])}
    elif kind == "Sequence":
        item |= {"pretokenizers": [p for p in (pre_tokenizer(rng, 1) for _ in range(3)) if p] if depth == 0 else []}
    return item


def decoder(rng, depth=0):
    kind = rng.choice(["ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Strip", "WordPiece", "BPEDecoder", "Replace", "Sequence", "Sequence", None])
    if kind is None:
        return None
    item = {"type": kind}
    if kind == "Metaspace":
        item |= {"replacement": "▁", "prepend_scheme": rng.choice(["always", "first", "never"]), "split": True}
    elif kind == "Strip":
        item |= {"content": rng.choice(" ab▁"), "start": rng.randrange(3), "stop": rng.randrange(3)}
    elif kind == "WordPiece":
        item |= {"prefix": rng.choice(["##", "a"]), "cleanup": rng.random() < 0.5}
    elif kind == "BPEDecoder":
        item |= {"suffix": rng.choice(["</w>", "b"])}
    elif kind == "Replace":
        item |= {"pattern": pattern(rng), "content": rng.choice(["", " ", "yy"])}
    elif kind == "Sequence":
        item |= {"decoders": [p for p in (decoder(rng, 1) for _ in range(3)) if p] if depth == 0 else []}
    return item


def bpe(rng):
    alphabet = sorted({c for item in ALPHABET for c in item})
    vocab = ["<unk>"] + [c for c in alphabet if rng.random() < 0.9]
    if rng.random() < 0.6:
        vocab += [b for b in make_golden.BYTES if rng.random() < rng.choice([1, 1, 0.97])]
    if rng.random() < 0.6:
        vocab += sorted(set(make_golden.pre_tokenizers.ByteLevel.alphabet()) - set(vocab))
    merges = []
    simple = [t for t in vocab if len(t) == 1]
    for _ in range(rng.choice([0, 30, 300])):
        a, b = rng.choice(simple), rng.choice(simple)
        if (a, b) not in merges and len(a + b) < 8:
            merges.append((a, b))
            if a + b not in vocab:
                vocab.append(a + b)
            simple += [a + b] * 3
    rng.shuffle(merges)
    model = {"type": "BPE", "dropout": None, "unk_token": rng.choice([None, "<unk>"]), "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": rng.random() < 0.5, "byte_fallback": rng.random() < 0.5, "ignore_merges": rng.random() < 0.3,
             "vocab": {t: i for i, t in enumerate(vocab)}, "merges": [list(m) for m in merges]}
    if rng.random() < 0.15:
        model["end_of_word_suffix"] = "a"
    return model


def word_piece(rng):
    pieces = sorted({c for item in ALPHABET for c in item})
    vocab = ["[UNK]"] + pieces + ["##" + p for p in pieces] + ["".join(rng.choices("abcxyz", k=2)) for _ in range(20)] + ["##ab", "##bc"]
    vocab = list(dict.fromkeys(vocab))
    return {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": rng.choice([4, 100]),
            "vocab": {t: i for i, t in enumerate(vocab)}}


def added(rng, size):
    tokens = []
    for content in rng.sample(["<s>", "</s>", "<x>", "<x>  ", "Tok", "tok", "to k", "é", "a b", "中文", " ", "ab", "\n"], rng.choice([0, 2, 4])):
        flag = lambda p=0.4: rng.random() < p
        tokens.append({"id": size + len(tokens), "content": content, "single_word": flag(), "lstrip": flag(), "rstrip": flag(),
                       "normalized": flag(), "special": flag()})
    return tokens


def random_tokenizer(rng):
    model = bpe(rng) if rng.random() < 0.8 else word_piece(rng)
    made = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added(rng, len(model["vocab"])), "normalizer": normalizer(rng),
            "pre_tokenizer": pre_tokenizer(rng), "post_processor": None, "decoder": decoder(rng), "model": model}
    # See pre_tokenizer: what is first is not what it was.
    if (made["pre_tokenizer"] or {}).get("prepend_scheme") == "first":
        made["normalizer"] = None
    return made


def run(probe, cases):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "cases.json"
        path.write_text(json.dumps(cases))
        return json.loads(subprocess.run([probe, path], check=True, stdout=subprocess.PIPE).stdout)


def expected(tokenizer, value):
    """The package panics on some of its own files; then there is nothing to compare."""
    try:
        return make_golden.expected(tokenizer, value)
    except BaseException as error:  # a panic is no Exception
        return {"error": str(error)}


def ambiguous(tokenizer, document):
    """Added tokens that normalize to one text, or to none: the package then chooses by the order of a hash table."""
    texts = [tokenizer.id_to_token(tokenizer.token_to_id(t["content"])) for t in document["added_tokens"]]
    return "" in texts or len(set(texts)) < len(texts)


def compare_random(probe, seed):
    rng = random.Random(seed)
    cases = [{"tokenizer": random_tokenizer(rng), "texts": [text(rng) for _ in range(12)]} for _ in range(300)]
    different = skipped = same = 0
    for case, results in zip(cases, run(probe, cases)):
        try:
            tokenizer = make_golden.load(case["tokenizer"])
        except Exception as error:
            skipped += 1
            if isinstance(results, list):
                print("only the package refuses:", error)
            continue
        if isinstance(results, dict):
            different += 1
            print("only we refuse:", results)
            continue
        if ambiguous(tokenizer, case["tokenizer"]):
            skipped += 1
            continue
        for value, got in zip(case["texts"], results):
            want = expected(tokenizer, value)
            if "error" in want:
                skipped += 1
            elif want != got:
                different += 1
                parts = {k: v for k, v in case["tokenizer"].items() if k not in ("model", "version", "truncation", "padding")}
                model = {k: v for k, v in case["tokenizer"]["model"].items() if k not in ("vocab", "merges")}
                print(repr(value), "\n", json.dumps(parts, ensure_ascii=False), model, "\n", want, "\n", got)
            else:
                same += 1
    print(f"seed {seed}: {same} texts alike, {different} different, {skipped} skipped")
    return different


def compare_model(probe, directory, files):
    """A model's tokenizer on whole files and on the golden texts."""
    document = json.loads((pathlib.Path(directory) / "tokenizer.json").read_text(encoding="utf-8"))
    texts = make_golden.TEXTS + [pathlib.Path(f).read_text(encoding="utf-8") for f in files]
    (results,) = run(probe, [{"tokenizer": document, "texts": texts}])
    tokenizer = make_golden.load(document)
    different = sum(expected(tokenizer, value) != got for value, got in zip(texts, results))
    print(f"{directory}: {len(texts)} texts, {different} different")
    return different


def compare_characters(probe):
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    vocab = {c: i for i, c in enumerate(characters)} | {"<s>": len(characters)}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": {"type": "Fuse"}, "model": model}
    word = {"id": len(characters), "content": "<s>", "single_word": True, "lstrip": True, "rstrip": False, "normalized": False, "special": False}
    split = lambda regex: {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed", "invert": False}}
    settings = [{"normalizer": {"type": n}} for n in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")]
    settings += [{"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": s, "lowercase": False}}
                 for s in (False, True)]
    settings += [{"pre_tokenizer": {"type": p, "behavior": "Removed"}} for p in ("Punctuation", "WhitespaceSplit", "Whitespace")]
    settings += [{"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                                          {"type": "Split", "pattern": {"String": "a"}, "behavior": "Removed", "invert": False}]}},
                 {"added_tokens": [word]}]
    settings += [split(r) for r in (r"\s", r"\w", r"\d", r"\p{L}", r"\p{N}", r"\p{P}", r"\p{M}", r"\p{Lu}", r"(?i:[a-z])", r"\p{Han}", r"[[:upper:]]")]
    for setting in settings:
        # Short texts, so that a difference is one of a character.
        texts = ["a" + c + ("<s>" if "added_tokens" in setting else "") for c in characters]
        tokenizer = make_golden.load(base | setting)
        (results,) = run(probe, [{"tokenizer": base | setting, "texts": texts}])
        different = [c for c, t, got in zip(characters, texts, results) if got.get("plain") != tokenizer.encode(t, add_special_tokens=False).ids]
        print(json.dumps(setting)[:100], len(different), " ".join(f"{ord(c):04X}" for c in different[:40]))


def main():
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    if "--characters" in sys.argv:
        return compare_characters(arguments[0])
    if "--model" in sys.argv:
        sys.exit(1 if compare_model(arguments[0], arguments[1], arguments[2:]) else 0)
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    sys.exit(1 if compare_random(arguments[0], seed) else 0)


if __name__ == "__main__":
    main()
