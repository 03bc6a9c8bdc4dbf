"""Writes golden/tokenizers.json: small tokenizers of every kind, and what the Python package `tokenizers` makes of texts.

    python tests/tokenizer/make_golden.py

Each tokenizer is trained here on a few sentences and has the parts of the model family that it is named after.
golden/example.json has the ids of the same texts by the tokenizer of the example model.
"""

import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = [r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+"]

TRAINING = """The quick brown fox jumps over the lazy dog. It's what they've said: we're here, aren't we? I'll say "no".
She sells sea shells by the sea shore; the shells she sells are surely seashells, 1234567890 of them in 2024.
Быстрая коричневая лиса прыгает через ленивую собаку. Съешь же ещё этих мягких французских булок.
敏捷的棕色狐狸跳过懒狗。我能吞下玻璃而不伤身体。いろはにほへと ちりぬるを。키스의 고유조건은 입술끼리 만나야 하고.
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío; añoraba a su querido cachorro. Ça va? Où ça?
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Fußgängerübergänge und Straßen.
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر. דג סקרן שט בים מאוכזב ולפתע מצא חברה.
def encode(self, text):\n\treturn [self.vocab[c] for c in text if c in self.vocab]  # tokens\n
ครูไทยให้ผู้ที่ สวยงาม ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले विष्णुवतार भगवान श्रीराम।
"""

TEXTS = [
    "", " ", "  ", "\n", "a", "Hello, world!", " leading space", "trailing space ", "two  spaces   three    four",
    "It's we've I'LL they'd DON'T won't 'tis ’s it'Sx 'S'T 'ſ I'ĺl", "tabs\tand\t\tmore\r\nCRLF\r\n\r\nend\n\n\n  indented\n",
    "digits 1 12 123 1234 12345 3.14159 1,000,000 ½ Ⅷ ٣٤٥ १२३ ²³ 一二三 ０１２",
    "Быстрая лиса. Съешь ЕЩЁ! Ёлка й и\u0306", "敏捷的狐狸跳过懒狗。吞下玻璃！「いろは」カタカナ ｶﾀｶﾅ 키스의 고유조건",
    "café cafe\u0301 naïve ÅÅ\u030a\u0323 e\u0323\u0302 ﬁ ﬃ ß ẞ İstanbul ıI Σίσυφος ΣΑΣ ǆ", "عربي نص שלום ครูไทย श्रीराम ক্ষ",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ 😀😀 🏳️‍🌈 ☕", "control \x00\x01\x07\x1b[0m\x7f\x85\u200b\u200d\u2060\ufeff\u202eend \ufffd",
    "nbsp\u00a0thin\u2009ideographic\u3000line\u2028para\u2029ogham\u1680mvs\u180eend",
    "<s>special</s> <|endoftext|> <|im_start|>user\nhi<|im_end|>\n<|begin_of_text|>x<|eot_id|> [CLS] [MASK]. [SEP] <mask> x<mask>  y",
    "<s> <s>  <unk> <pad>word<word> extra EXTRA xextra extra. Extra\u0301", "a.b,c;d:e!f?g(h)i[j]{k}<l>\"m'n`o~p@q#r$s%t^u&v*w-x_y+z=A|B\\C/D",
    "def f(x):\n    return x**2  # кв\n\n\n\tif x != 0x1F: pass\n", "http://example.com/a?b=c&d=%20 foo_bar camelCaseWord HTTPServer v2.0",
    "«quotes» “curly” ‘single’ „low“ … — – ‐ • § ¶ © ™ € £ ¥ ∑ √ ≠ ∞ ← →", "▁ ▁▁ a▁b ▁a Ġ Ċ âĢĻ <0x0A> <0xE2>",
    "mathematical 𝒜𝔅ℂ 𝟘𝟙 fullwidth ＡＢＣ circled Ⓐⓑ superscript ᵃ roman ⅻ hangul 각 각", "zalgo Z̸̡͓̽a̵͖͆l̶̘͝g̶̺͒o̷ x\u0301\u0302\u0303\u0316\u0327",
    "x" * 100 + " " + "ab" * 60 + " " + " " * 50 + "end" + "!" * 70, "\ufffd\ufffd raw \ufffd",
    "The sea shells she sells 's 'T  \n \n  x\n\n y \t\n z", "  <mask>  <mask>\n", "né\u200d\u200c_word a_b a-b a\u2019b",
]


def text_lines():
    return TRAINING.split("\n")


def bpe_trained(pre, size, specials, normalizer=None, alphabet=(), **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    marks = {key: options[key] for key in ("end_of_word_suffix",) if key in options}
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=sorted(alphabet),
                                  show_progress=False, **marks)
    tokenizer.train_from_iterator(text_lines(), trainer)
    return tokenizer


def byte_level(pre, size, specials, **options):
    tokenizer = bpe_trained(pre, size, [], alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer


def gpt2():
    t = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), 450, ["<|endoftext|>"])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def roberta():
    t = bpe_trained(pre_tokenizers.ByteLevel(add_prefix_space=True), 420, ["<s>", "<pad>", "</s>", "<unk>"],
                    alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return t


def split_byte_level(pattern, size, specials, ignore_merges=False):
    patterns = [pattern] if isinstance(pattern, str) else pattern
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in patterns] +
                                  [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return byte_level(pre, size, specials, ignore_merges=ignore_merges)


def llama3():
    t = split_byte_level(LLAMA3, 440, ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], True)
    # A word that no sequence of merges gives: ignore_merges finds it all the same.
    document = json.loads(t.to_str())
    document["model"]["vocab"]["Ġjumps"] = len(document["model"]["vocab"])
    document["added_tokens"] = [dict(a, id=a["id"] + 1) for a in document["added_tokens"]]
    t = Tokenizer.from_str(json.dumps(document))
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    return t


def qwen2():
    t = split_byte_level(QWEN2, 430, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.normalizer = normalizers.NFC()
    return t


def neox():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t = byte_level(pre, 400, ["<|endoftext|>"])
    t.add_tokens([AddedToken("  ", normalized=False), AddedToken("   ", normalized=False)])
    return t


BYTES = [f"<0x{i:02X}>" for i in range(256)]


def sentencepiece(specials, size=700):
    t = bpe_trained(pre_tokenizers.Metaspace(), size, specials + BYTES, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    document = json.loads(t.to_str())
    document["added_tokens"] = document["added_tokens"][:len(specials)]
    return document


def llama2():
    d = sentencepiece(["<unk>", "<s>", "</s>"])
    d["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    d["pre_tokenizer"] = None
    d["post_processor"] = json.loads(json.dumps({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}))
    d["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    d["model"]["merges"] = [" ".join(m) for m in d["model"]["merges"]]
    return d


def mistral():
    d = sentencepiece(["<unk>", "<s>", "</s>"], 650)
    d["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    d["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return d


def gemma():
    d = sentencepiece(["<pad>", "</s>", "<s>", "<unk>"], 660)
    d["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    d["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    d["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return d


def unknown_runs():
    """No bytes to fall back to: runs of unknown characters are fused, with a Metaspace pre-tokenizer and decoder."""
    t = bpe_trained(pre_tokenizers.Metaspace(), 260, ["<unk>"], unk_token="<unk>", fuse_unk=True)
    t.decoder = decoders.Metaspace()
    t.add_tokens([AddedToken("extra", single_word=True, rstrip=True, normalized=True)])
    return t


def word_piece(lowercase, size, processor):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(text_lines(), trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    if processor == "template":
        t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                                         special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    else:
        t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    t.decoder = decoders.WordPiece()
    return t


def openai_gpt():
    normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
                                       normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " ")])
    pre = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("contiguous"),
                                   pre_tokenizers.Digits()])
    t = bpe_trained(pre, 330, ["<unk>"], normalizer, unk_token="<unk>", end_of_word_suffix="</w>")
    t.decoder = decoders.BPEDecoder()
    t.add_tokens([AddedToken("EXTRA", normalized=True)])
    return t


def word_level():
    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(text_lines(), trainers.WordLevelTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False))
    return t


def all_tokenizers():
    made = {
        "gpt2": gpt2(), "roberta": roberta(), "llama3": llama3(), "qwen2": qwen2(), "neox": neox(),
        "o200k": split_byte_level(O200K, 400, ["<|endoftext|>"]), "deepseek": split_byte_level(DEEPSEEK, 400, []),
        "llama2": llama2(), "mistral": mistral(), "gemma": gemma(), "unknown_runs": unknown_runs(),
        "bert": word_piece(True, 420, "template"), "bert_cased": word_piece(False, 440, "bert"),
        "openai_gpt": openai_gpt(), "word_level": word_level(),
    }
    return {name: t if isinstance(t, dict) else json.loads(t.to_str()) for name, t in made.items()}


def expected(tokenizer, text):
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    special = tokenizer.encode(text).ids
    return {"plain": plain, "special": special, "decoded": tokenizer.decode(special),
            "decoded_all": tokenizer.decode(special, skip_special_tokens=False)}


def load(document):
    tokenizer = Tokenizer.from_str(document if isinstance(document, str) else json.dumps(document))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def brief(result):
    """Leaves out what follows from the rest, to keep the file small."""
    return {key: value for key, value in result.items() if key == "plain" or value != result.get("decoded" if key == "decoded_all" else "plain")}


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(path, path.stat().st_size)


def main():
    golden = HERE / "golden"
    golden.mkdir(exist_ok=True)
    cases = []
    for name, document in all_tokenizers().items():
        tokenizer = load(document)
        cases.append({"name": name, "tokenizer": document, "results": [brief(expected(tokenizer, text)) for text in TEXTS]})
    write(golden / "tokenizers.json", {"texts": TEXTS, "cases": cases})
    tokenizer = load((ROOT / "examples/tiny-llama-novels/tokenizer.json").read_text(encoding="utf-8"))
    write(golden / "example.json", {"texts": TEXTS, "results": [brief(expected(tokenizer, text)) for text in TEXTS]})


if __name__ == "__main__":
    main()
