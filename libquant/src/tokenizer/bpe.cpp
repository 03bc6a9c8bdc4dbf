#include "tokenizer/bpe.h"

#define XXH_INLINE_ALL
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "quant/error.h"
#include "tokenizer/unicode.h"

namespace quant::tok {

namespace {

constexpr char32_t kTableEnd = 0x10000;

std::uint64_t pack(std::uint32_t rank, std::int32_t result) {
  return PairMap::key(rank, static_cast<std::uint32_t>(result));
}

std::uint64_t pair_key(std::int32_t a, std::int32_t b) {
  return PairMap::key(static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b));
}

char32_t first_character(std::string_view text) {
  std::size_t at = 0;
  return next_code_point(text, at);
}

char32_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return next_code_point(text, at);
}

}  // namespace

Bpe::Bpe(const JsonPart& part)
    : vocabulary_(part.at("vocab")),
      place_(part.place()),
      unknown_token_(part.optional_text("unk_token")),
      prefix_(part.text_or("continuing_subword_prefix", "")),
      suffix_(part.text_or("end_of_word_suffix", "")),
      fuse_unknown_(part.flag_or("fuse_unk", false)),
      byte_fallback_(part.flag_or("byte_fallback", false)),
      ignore_merges_(part.flag_or("ignore_merges", false)) {
  if (const auto dropout = part.find("dropout"); dropout && dropout->value() != 0.0) {
    part.unsupported("dropout, which makes token ids random");
  }
  if (unknown_token_) unknown_ = vocabulary_.id(*unknown_token_);
  read_characters();
  read_merges(part.at("merges"));
  find_inner_pairs();
  read_ = {};
}

void Bpe::read_characters() {
  characters_.assign(kTableEnd, -1);
  for (const auto& [token, id] : vocabulary_.tokens()) {
    if (token.empty() || token.size() > 3) continue;
    std::size_t at = 0;
    const char32_t c = next_code_point(token, at);
    if (at == token.size()) characters_[c] = id;
  }
  all_bytes_ = byte_fallback_;
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[static_cast<std::size_t>(byte)] = vocabulary_.id(fmt::format("<0x{:02X}>", byte));
    all_bytes_ = all_bytes_ && byte_ids_[static_cast<std::size_t>(byte)] >= 0;
  }
}

void Bpe::read_merges(const JsonPart& part) {
  const nlohmann::json& list = part.value();
  if (!list.is_array()) part.corrupt(std::string("is not a list but ") + list.type_name());
  std::uint32_t rank = 0;
  for (const nlohmann::json& item : list) {
    if (item.is_string()) {
      const auto& text = item.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      const std::size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        part.corrupt("has the entry " + shown(text) + ", which is not two tokens with a space between them");
      }
      add_merge(part, rank++, text.substr(0, space), text.substr(space + 1));
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      add_merge(part, rank++, item[0].get_ref<const std::string&>(), item[1].get_ref<const std::string&>());
    } else {
      part.corrupt("has an entry that is neither \"a b\" nor [\"a\", \"b\"]");
    }
  }
  merges_ = PairMap(read_.size());
  for (const Merge& merge : read_) merges_.put(pair_key(merge.a, merge.b), pack(merge.rank, merge.result));
}

void Bpe::add_merge(const JsonPart& part, std::uint32_t rank, const std::string& a, const std::string& b) {
  const auto need = [&](const std::string& token) {
    const std::int32_t id = vocabulary_.id(token);
    if (id < 0) {
      part.corrupt("joins " + shown(a) + " and " + shown(b) + ", but " + shown(token) + " is not in the vocab");
    }
    return id;
  };
  if (b.size() < prefix_.size())
    part.corrupt("joins " + shown(b) + ", which is shorter than the prefix of such tokens");
  read_.push_back({need(a), need(b), rank, need(a + b.substr(prefix_.size()))});
}

// A place between two characters that no merge joins cuts a long word into parts that are encoded on their own, with
// the same result. It holds where a symbol's text is the text it stands for, so not with prefixes, nor where the tokens
// for bytes or for the unknown are merged.
void Bpe::find_inner_pairs() {
  if (!prefix_.empty() || !suffix_.empty() || !vocabulary_.unique_ids()) return;
  const auto stands_for_other_text = [&](std::int32_t id) {
    const bool is_byte = byte_fallback_ && std::find(byte_ids_.begin(), byte_ids_.end(), id) != byte_ids_.end();
    return is_byte || id == unknown_ || vocabulary_.text(id)->empty();
  };
  inner_ = PairMap(read_.size());
  for (const Merge& merge : read_) {
    if (stands_for_other_text(merge.a) || stands_for_other_text(merge.b)) return;
    const char32_t before = last_character(*vocabulary_.text(merge.a));
    const char32_t after = first_character(*vocabulary_.text(merge.b));
    inner_.put(PairMap::key(before, after), 1);
  }
  separates_ = true;
}

std::int32_t Bpe::character_id(char32_t c) const { return c < kTableEnd ? characters_[c] : vocabulary_.id(to_utf8(c)); }

std::int32_t Bpe::unknown_id() const {
  if (unknown_ >= 0) return unknown_;
  throw Error(ErrorCode::corrupt_file,
              place_ + " names the unknown token " + shown(*unknown_token_) + ", which is not in its vocab",
              "Fetch tokenizer.json again.", "InvalidTokenizer");
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  if (piece.size() > WordCache::kLongestWord) {
    const std::int32_t whole = ignore_merges_ ? vocabulary_.id(piece) : -1;
    if (whole >= 0) return ids.push_back(whole);
    return encode_long(piece, scratch, ids);
  }
  encode_cached(piece, scratch, ids);
}

void Bpe::encode_cached(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  const std::uint64_t hash = XXH3_64bits(word.data(), word.size());
  if (const WordCache::Slot* slot = scratch.cache.find(word, hash)) {
    ids.insert(ids.end(), slot->ids.begin(), slot->ids.begin() + slot->count);
    return;
  }
  const std::size_t before = ids.size();
  const std::int32_t whole = ignore_merges_ ? vocabulary_.id(word) : -1;
  if (whole >= 0) {
    ids.push_back(whole);
  } else {
    encode_word(word, scratch, ids);
  }
  scratch.cache.put(word, hash, ids.data() + before, ids.size() - before);
}

bool Bpe::separable(char32_t before, char32_t after) const {
  if (inner_.find(PairMap::key(before, after)) != PairMap::kNone) return false;
  if (all_bytes_) return true;
  const bool known_before = character_id(before) >= 0;
  const bool known_after = character_id(after) >= 0;
  // A run of unknown characters is one token or several, so it stays together up to a known one. Where there is no
  // token for them they vanish, and what stands around them is merged.
  return unknown_token_ ? known_before || known_after : known_before && known_after;
}

void Bpe::encode_long(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  if (!separates_) return encode_word(piece, scratch, ids);
  std::size_t begin = 0;
  std::size_t at = 0;
  char32_t before = next_code_point(piece, at);
  const auto encode_part = [&](std::size_t end) {
    const std::string_view part = piece.substr(begin, end - begin);
    if (ignore_merges_ || part.size() > WordCache::kLongestWord) {
      encode_word(part, scratch, ids);
    } else {
      encode_cached(part, scratch, ids);
    }
    begin = end;
  };
  while (at < piece.size()) {
    const std::size_t here = at;
    const char32_t after = next_code_point(piece, at);
    if (separable(before, after)) encode_part(here);
    before = after;
  }
  encode_part(piece.size());
}

bool Bpe::append_bytes(std::string_view text, std::vector<std::int32_t>& symbols) const {
  for (const char c : text) {
    if (byte_ids_[static_cast<unsigned char>(c)] < 0) return false;
  }
  for (const char c : text) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  return true;
}

// An unknown character is held back until a known one follows: so the reference orders unknown characters and bytes.
void Bpe::first_symbols(std::string_view word, std::vector<std::int32_t>& symbols) const {
  symbols.clear();
  bool held_back = false;
  const bool decorated = !prefix_.empty() || !suffix_.empty();
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t begin = at;
    const char32_t c = next_code_point(word, at);
    std::string_view text = word.substr(begin, at - begin);
    std::string changed;
    if (decorated) {
      changed = (begin == 0 ? "" : prefix_) + std::string(text) + (at == word.size() ? suffix_ : "");
      text = changed;
    }
    const std::int32_t id = decorated ? vocabulary_.id(text) : character_id(c);
    if (id >= 0) {
      if (held_back) symbols.push_back(unknown_id());
      held_back = false;
      symbols.push_back(id);
    } else if (!(byte_fallback_ && append_bytes(text, symbols)) && unknown_token_) {
      if (held_back && !fuse_unknown_) symbols.push_back(unknown_id());
      unknown_id();
      held_back = true;
    }
  }
  if (held_back) symbols.push_back(unknown_id());
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const {
  constexpr std::size_t kFew = 40;
  first_symbols(word, scratch.symbols);
  if (scratch.symbols.size() <= kFew) return merge_few(scratch, ids);
  if (scratch.symbols.size() >= UINT32_MAX) {
    throw Error(ErrorCode::usage,
                place_ + ": a text of " + std::to_string(word.size()) + " bytes without a place to cut",
                "Give it in smaller parts.");
  }
  merge_many(scratch, ids);
}

// The pair of the lowest rank first, the leftmost of equals.
void Bpe::merge_few(Scratch& scratch, std::vector<std::int32_t>& ids) const {
  std::vector<std::int32_t>& symbols = scratch.symbols;
  std::vector<std::uint64_t>& pairs = scratch.pairs;  // what joining symbols i and i + 1 gives
  const auto look_up = [&](std::size_t i) { return merges_.find(pair_key(symbols[i], symbols[i + 1])); };
  pairs.clear();
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) pairs.push_back(look_up(i));
  while (!pairs.empty()) {
    const auto best = std::min_element(pairs.begin(), pairs.end());
    if (*best == PairMap::kNone) break;
    const auto i = static_cast<std::size_t>(best - pairs.begin());
    symbols[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(*best));
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    pairs.erase(best);
    if (i > 0) pairs[i - 1] = look_up(i - 1);
    if (i < pairs.size()) pairs[i] = look_up(i);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

// The same with a heap: n log n for any text. Candidates whose pair has changed since are passed over.
void Bpe::merge_many(Scratch& scratch, std::vector<std::int32_t>& ids) const {
  std::vector<Scratch::Symbol>& list = scratch.list;
  std::vector<Scratch::Candidate>& heap = scratch.heap;
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) { return a.order > b.order; };
  const auto count = static_cast<std::uint32_t>(scratch.symbols.size());
  const auto find = [&](std::uint32_t at) {
    return list[at].next == count ? PairMap::kNone : merges_.find(pair_key(list[at].id, list[list[at].next].id));
  };
  const auto candidate = [](std::uint64_t found, std::uint32_t at) {
    return Scratch::Candidate{PairMap::key(static_cast<std::uint32_t>(found >> 32), at),
                              static_cast<std::int32_t>(static_cast<std::uint32_t>(found))};
  };
  const auto push = [&](std::uint32_t at) {
    const std::uint64_t found = find(at);
    if (found == PairMap::kNone) return;
    heap.push_back(candidate(found, at));
    std::push_heap(heap.begin(), heap.end(), later);
  };

  list.resize(count);
  for (std::uint32_t i = 0; i < count; ++i) list[i] = {scratch.symbols[i], i == 0 ? count : i - 1, i + 1, false};
  heap.clear();
  for (std::uint32_t i = 0; i + 1 < count; ++i) {
    if (const std::uint64_t found = find(i); found != PairMap::kNone) heap.push_back(candidate(found, i));
  }
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Scratch::Candidate top = heap.back();
    heap.pop_back();
    const auto at = static_cast<std::uint32_t>(top.order);
    if (list[at].merged) continue;
    const std::uint64_t found = find(at);
    if (found == PairMap::kNone || static_cast<std::int32_t>(static_cast<std::uint32_t>(found)) != top.result) continue;
    Scratch::Symbol& right = list[list[at].next];
    right.merged = true;
    list[at].id = top.result;
    list[at].next = right.next;
    if (right.next != count) list[right.next].previous = at;
    if (list[at].previous != count) push(list[at].previous);
    push(at);
  }
  for (const Scratch::Symbol& symbol : list) {
    if (!symbol.merged) ids.push_back(symbol.id);
  }
}

std::unique_ptr<Model> read_bpe(const JsonPart& part) { return std::make_unique<Bpe>(part); }

}  // namespace quant::tok
