#include "tokenizer/post_processor.h"

#include <string>

namespace quant::tok {

namespace {

// {"SpecialToken": {"id": name}} puts the ids of special_tokens[name]; {"Sequence": {"id": "A"}} is the text.
PostProcessor read_template(const JsonPart& part) {
  PostProcessor around;
  bool seen = false;
  for (const JsonPart& piece : part.list("single")) {
    if (const auto sequence = piece.find("Sequence")) {
      if (seen || sequence->text("id") != "A") piece.unsupported("a template with more than the one text");
      seen = true;
    } else {
      const std::string name = piece.at("SpecialToken").text("id");
      const JsonPart token = part.at("special_tokens").at(name.c_str());
      for (const JsonPart& id : token.list("ids")) (seen ? around.after : around.before).push_back(id.as_id());
    }
  }
  if (!seen) part.corrupt("has a template without the text");
  return around;
}

// ["</s>", 2]
std::int32_t read_token(const JsonPart& part) {
  const std::vector<JsonPart> pair = part.elements();
  if (pair.size() != 2) part.corrupt("is not a token and its id");
  return pair[1].as_id();
}

}  // namespace

PostProcessor read_post_processor(const JsonPart& part) {
  const std::string type = part.type();
  if (type == "ByteLevel") return {};  // corrects offsets only
  if (type == "TemplateProcessing") return read_template(part);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    return {{read_token(part.at("cls"))}, {read_token(part.at("sep"))}};
  }
  if (type == "Sequence") {
    PostProcessor all;
    for (const JsonPart& step : part.list("processors")) {
      const PostProcessor outer = read_post_processor(step);
      all.before.insert(all.before.begin(), outer.before.begin(), outer.before.end());
      all.after.insert(all.after.end(), outer.after.begin(), outer.after.end());
    }
    return all;
  }
  part.unsupported("the post-processor " + shown(type));
}

}  // namespace quant::tok
